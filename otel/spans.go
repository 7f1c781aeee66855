package pgadvisoryotel

import (
	"context"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
)

// spans is the context of a call. It is the caller's, and has the span that the
// call is in: that of the wait, and after the grant that of the hold. A Tracer of
// xactlock gives the context at the start, and the hold's span begins later.
type spans struct {
	context.Context                                 // the caller's
	current         atomic.Pointer[context.Context] // the caller's with the span
	held            bool                            // written before fn runs, and read after
}

type spansKey struct{}

// Value is context.Context's.
func (s *spans) Value(key any) any {
	if key == (spansKey{}) {
		return s
	}
	return (*s.current.Load()).Value(key)
}

// spansOf returns the innermost call's spans, or nil for a ctx that is not made from
// one that begin has returned: a panic here would take the place of another.
func spansOf(ctx context.Context) *spans {
	s, _ := ctx.Value(spansKey{}).(*spans)
	return s
}

// rename changes the name of the span that the call is in.
func rename(ctx context.Context, name string) {
	if s := spansOf(ctx); s != nil && !s.held {
		trace.SpanFromContext(s).SetName(name)
	}
}
