package txlock

import (
	"context"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Report is a call as it is at some moment, for the events of a package.
type Report struct {
	Op                   string
	Keys                 []hashkey.Key
	Shared               bool
	Queued, Waited, Held time.Duration
	Contended, Plain     bool
	Outcome              Outcome
	Err                  error // what the call returns; nil where it panics
}

// Listener is told of calls. A nil Listener is told of none.
type Listener struct {
	Observe func(r Report) // told of the end; may be nil

	// Start, Granted and End are a tracer's, or nil. The call goes on with the
	// ctx that Start returns. End is told after Observe, and also if that
	// panics.
	Start        func(ctx context.Context, r Report) context.Context
	Granted, End func(ctx context.Context, r Report)
}

// Tracer returns l without Observe.
func (l *Listener) Tracer() *Listener {
	if l == nil || l.Start == nil {
		return nil
	}
	return &Listener{Start: l.Start, Granted: l.Granted, End: l.End}
}
