package sessionlock

import (
	"testing"
	"time"
)

// A question has a second where the pulse allows it, so that a server that is far away
// is not taken for silent, and the next question comes after it.
func TestAnswerWithin(t *testing.T) {
	for pulse, want := range map[time.Duration]time.Duration{
		333 * time.Millisecond: 333 * time.Millisecond, // of a DeadClient of one second
		time.Second:            time.Second,
		3 * time.Second / 2:    time.Second,
		10 * time.Second:       5 * time.Second,
	} {
		if got := answerWithin(pulse); got != want {
			t.Errorf("a pulse of %v: %v, want %v", pulse, got, want)
		}
	}
}
