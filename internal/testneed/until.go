package testneed

import (
	"testing"
	"time"
)

// Patience is for how long tests wait for a state. On a busy machine states come late,
// and a test that waits for so long is one that fails anyway.
const Patience = time.Minute

// longestPause is between two looks at a state: the first come sooner.
const longestPause = 30 * time.Millisecond

// Reached waits for a state, and reports whether it came.
func Reached(state func() bool) bool {
	end := time.Now().Add(Patience)
	for pause := time.Millisecond; !state(); pause = min(2*pause, longestPause) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Until waits for a state, and ends the test if it does not come.
func Until(tb testing.TB, what string, state func() bool) {
	tb.Helper()
	if !Reached(state) {
		tb.Fatalf("after %v it is still not so that %s", Patience, what)
	}
}
