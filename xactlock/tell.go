package xactlock

import (
	"context"

	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// newListener returns what is told of calls with the options o, or nil.
func newListener(o *Options) *txlock.Listener {
	observe, t := o.Observe, o.Trace
	if observe == nil && t == nil {
		return nil
	}
	l := new(txlock.Listener)
	if observe != nil {
		l.Observe = func(r txlock.Report) { observe(event(r)) }
	}
	if t != nil {
		l.Start = func(ctx context.Context, r txlock.Report) context.Context {
			return t.TraceStart(ctx, Call{Op: r.Op, Keys: r.Keys, Shared: r.Shared})
		}
		l.Granted = func(ctx context.Context, r txlock.Report) { t.TraceGranted(ctx, event(r)) }
		l.End = func(ctx context.Context, r txlock.Report) { t.TraceEnd(ctx, event(r)) }
	}
	return l
}

func event(r txlock.Report) Event {
	return Event{
		Op:        r.Op,
		Keys:      r.Keys,
		Shared:    r.Shared,
		Queued:    r.Queued,
		Waited:    r.Waited,
		Held:      r.Held,
		Contended: r.Contended,
		Plain:     r.Plain,
		Outcome:   Outcome(r.Outcome),
		Err:       r.Err,
	}
}
