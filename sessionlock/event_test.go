package sessionlock_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// An event in JSON says what it is about.
func TestEventJSON(t *testing.T) {
	text, err := json.Marshal(sessionlock.Event{
		Kind: sessionlock.Lost, Key: hashkey.Int64(7), Held: 1500 * time.Millisecond, Err: sessionlock.ErrLost,
	})
	const want = `{"kind":"lost","key":"7","waited":0,"held":1.5,"error":"pgadvisory: the lock was lost: its session is gone"}`
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v\nwant %s", text, err, want)
	}
}
