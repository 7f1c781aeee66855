package pgxlock

import (
	"context"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// tellStart tells Options.Trace of the start of the call, and returns the ctx to go
// on with.
func (c *call) tellStart(ctx context.Context) context.Context {
	t := c.tracer()
	if t == nil {
		return ctx
	}
	traced := t.TraceStart(ctx, Call{Op: c.op, Keys: c.Keys, Shared: c.Shared})
	c.OnGrant = func() { t.TraceGranted(traced, c.event(Granted, nil)) }
	return traced
}

// tellEnd tells Options.Observe and Options.Trace of the end of the call, of which
// ctx is what tellStart returned. err is what the call returns; it is nil if it
// panics.
func (c *call) tellEnd(ctx context.Context, err error) {
	if c.locker == nil {
		return
	}
	observe, t := c.locker.opts.Observe, c.tracer()
	if observe == nil && t == nil {
		return
	}
	if c.Waited == 0 { // the call was refused before it began to wait
		c.Waited = time.Since(c.began)
	}
	e := c.event(Outcome(c.Outcome), err)
	if t != nil {
		defer t.TraceEnd(ctx, e) // also if Observe panics
	}
	if observe != nil {
		observe(e)
	}
}

// tracer returns Options.Trace.
func (c *call) tracer() Tracer {
	if c.locker == nil {
		return nil
	}
	return c.locker.opts.Trace
}

// event returns the call as it is now.
func (c *call) event(o Outcome, err error) Event {
	return Event{
		Op:        c.op,
		Keys:      c.Keys,
		Shared:    c.Shared,
		Queued:    c.Queued,
		Waited:    c.Waited,
		Held:      c.Held,
		Contended: c.Contended,
		Outcome:   o,
		Err:       err,
	}
}

// lockTrace is what Options.Trace is told of a call of Lock or TryLock, of which
// Options.Observe is not told. It is the zero lockTrace if there is no tracer.
type lockTrace struct {
	tracer Tracer
	event  Event
	began  time.Time
}

// traceLock tells Options.Trace of the start of a call, and changes ctx to the one
// to go on with.
func (l *Locker) traceLock(ctx *context.Context, op string, keys []hashkey.Key) lockTrace {
	if l == nil || l.opts.Trace == nil {
		return lockTrace{}
	}
	t := lockTrace{
		tracer: l.opts.Trace,
		event:  Event{Op: op, Keys: keys, Shared: l.opts.Shared, Outcome: Failed},
		began:  time.Now(),
	}
	*ctx = t.tracer.TraceStart(*ctx, Call{Op: op, Keys: keys, Shared: l.opts.Shared})
	return t
}

// done notes what the call returns, and tells the tracer if the lock is granted.
func (t *lockTrace) done(ctx context.Context, granted bool, err error) {
	if t.tracer == nil {
		return
	}
	t.event.Waited, t.event.Err = time.Since(t.began), err
	switch {
	case granted:
		t.event.Outcome = Granted
		t.tracer.TraceGranted(ctx, t.event)
	case err == nil:
		t.event.Contended, t.event.Outcome = true, NotAcquired
	default:
		t.event.Outcome = Outcome(txlock.OutcomeBefore(err))
	}
}

// end tells the tracer of the end, also of a call whose transaction panics.
func (t *lockTrace) end(ctx context.Context) {
	if t.tracer != nil {
		t.tracer.TraceEnd(ctx, t.event)
	}
}
