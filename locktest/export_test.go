package locktest

import (
	"testing"
	"time"
)

// SetPatience changes how long Hold waits, for a test that does not run in
// parallel.
func SetPatience(t *testing.T, d time.Duration) {
	before := patience
	patience = d
	t.Cleanup(func() { patience = before })
}
