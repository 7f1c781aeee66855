package sessionlock

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Event is something that has happened to a lock.
//
// A call that locks begins with Waiting, and goes on with Granted or Failed. A
// lock that was granted ends with Released or Lost: Lost comes when the loss is
// noticed, after the callback's ctx has ended, and mostly before the callback
// returns. Each campaign of [Locker.Lead] is such a call, and each of its terms such
// a lock.
type Event struct {
	Kind EventKind

	// Key is what was asked for, in all events of one call and its lock. Of
	// WithSlot it is the key that has the slots; [Lock.Key] is the slot.
	Key hashkey.Key

	// Waited is the time from Waiting to Granted or Failed, Held the time from
	// Granted to Released or Lost. They are 0 in the events before.
	Waited, Held time.Duration

	// Err says why the call has failed, how the lock was lost, or what went
	// wrong when it was given back. It is nil where the call has failed because
	// a hook of the pool panics or ends the goroutine.
	Err error
}

// MarshalJSON returns e for a log: the durations in seconds, and Err as its text.
func (e Event) MarshalJSON() ([]byte, error) {
	var text string
	if e.Err != nil {
		text = e.Err.Error()
	}
	return json.Marshal(struct {
		Kind   EventKind   `json:"kind"`
		Key    hashkey.Key `json:"key"`
		Waited float64     `json:"waited"`
		Held   float64     `json:"held"`
		Err    string      `json:"error,omitempty"`
	}{e.Kind, e.Key, e.Waited.Seconds(), e.Held.Seconds(), text})
}

// EventKind is what has happened.
type EventKind int

// The kinds of event.
const (
	Waiting  EventKind = iota // a call asks for the lock
	Granted                   // the lock is held
	Failed                    // the call has ended without the lock
	Released                  // the lock was given back
	Lost                      // the session is gone, or has no longer the lock
)

// String returns the kind in one word.
func (k EventKind) String() string {
	switch k {
	case Waiting:
		return "waiting"
	case Granted:
		return "granted"
	case Failed:
		return "failed"
	case Released:
		return "released"
	case Lost:
		return "lost"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// MarshalText returns the text of String.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
