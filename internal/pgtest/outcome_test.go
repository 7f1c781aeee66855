package pgtest_test

import (
	"runtime"
	"testing"
)

const (
	passed  = "passed"
	skipped = "was skipped"
	failed  = "failed"
)

// outcome runs f as if it were a test and says how that ended.
func outcome(f func(testing.TB)) string {
	tb := &recorder{outcome: passed}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(tb)
	}()
	<-done
	return tb.outcome
}

// A recorder stands in for the testing.T of a test that ends early. Methods
// that it does not define panic.
type recorder struct {
	testing.TB
	outcome string
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.end(skipped) }
func (r *recorder) Fatalf(string, ...any) { r.end(failed) }

func (r *recorder) end(outcome string) {
	r.outcome = outcome
	runtime.Goexit()
}
