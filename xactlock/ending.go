package xactlock

import (
	"context"
	"runtime"
	"time"
)

// ending is a Commit or Rollback that may hang, or panic: it runs in a goroutine
// of its own.
type ending struct{ ended chan ended }

type ended struct {
	err      error
	returned bool
	panicked any
}

// start starts end.
func start(end func() error) ending {
	e := ending{make(chan ended, 1)}
	go func() {
		var how ended
		defer func() {
			how.panicked = recover()
			e.ended <- how
		}()
		how.err = end()
		how.returned = true
	}()
	return e
}

// within waits for the end, for at most d, and reports whether it came. What has
// panicked there panics on here.
func (e ending) within(d time.Duration) (err error, ok bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case how := <-e.ended:
		return how.result(), true
	case <-timer.C:
		return nil, false
	}
}

// before is within, for at most d after ctx's end.
func (e ending) before(ctx context.Context, d time.Duration) (err error, ok bool) {
	select {
	case how := <-e.ended:
		return how.result(), true
	case <-ctx.Done():
		return e.within(d)
	}
}

func (how ended) result() error {
	switch {
	case how.panicked != nil:
		panic(how.panicked)
	case !how.returned:
		runtime.Goexit()
	}
	return how.err
}
