package xactlock

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Event is what [Options].Observe learns of one call.
type Event struct {
	Op     string        // the method: "WithTx", "Exec", …
	Keys   []hashkey.Key // sorted and without duplicates; not to be changed
	Shared bool

	Queued time.Duration // waiting in this process, without a connection
	Waited time.Duration // from the call to the grant, or to the end where there was none
	Held   time.Duration // from the grant to the end of the transaction

	// Contended: another call had the lock, or was first in the queue for it. It is
	// false, too, where a Lock or an Exec in one message has waited on the server: that
	// is not seen.
	Contended bool

	Plain   bool // the call went through database/sql alone: see Options.Plain
	Outcome Outcome
	Err     error // what the call returns; nil where it panics
}

// MarshalJSON returns e for a log: the durations in seconds, and Err as its text.
func (e Event) MarshalJSON() ([]byte, error) {
	var text string
	if e.Err != nil {
		text = e.Err.Error()
	}
	return json.Marshal(struct {
		Op        string        `json:"op"`
		Keys      []hashkey.Key `json:"keys"`
		Shared    bool          `json:"shared"`
		Queued    float64       `json:"queued"`
		Waited    float64       `json:"waited"`
		Held      float64       `json:"held"`
		Contended bool          `json:"contended"`
		Plain     bool          `json:"plain"`
		Outcome   Outcome       `json:"outcome"`
		Err       string        `json:"error,omitempty"`
	}{
		e.Op, e.Keys, e.Shared, e.Queued.Seconds(), e.Waited.Seconds(), e.Held.Seconds(), e.Contended, e.Plain, e.Outcome, text,
	})
}

// Outcome is how a call ended.
type Outcome int

// The outcomes.
const (
	Committed   Outcome = iota // fn returned nil and its writes are committed
	RolledBack                 // fn ran and nothing of it is committed
	NotAcquired                // fn did not run: the lock was not to be had in time
	Failed                     // something failed before fn ran, or the server refused the commit
	Unknown                    // the answer to COMMIT never came, or fn ended the transaction by a way of its own
	Granted                    // the lock is held: a Lock or TryLock has ended well, or fn is about to run
)

// MarshalText returns what String does, so that a JSON log shows the outcome's
// name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// String returns the outcome's name in lower case, as a metric's label.
func (o Outcome) String() string {
	switch o {
	case Committed:
		return "committed"
	case RolledBack:
		return "rolled back"
	case NotAcquired:
		return "not acquired"
	case Failed:
		return "failed"
	case Unknown:
		return "unknown"
	case Granted:
		return "granted"
	}
	return fmt.Sprintf("Outcome(%d)", int(o))
}
