package xactlock

import (
	"context"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Tracer is told of calls while they run, with a context, for spans:
// [Options].Trace. It is told of every method that takes a lock, and also of
// calls that are refused because of an argument or an option. Its methods may be
// called concurrently, for different calls.
type Tracer interface {
	// TraceStart is called first. The call goes on with the context that it
	// returns: the connection is taken with it, and fn's ctx and the contexts
	// of the other two methods are made from it. TraceStart must return ctx or
	// a context made from it.
	TraceStart(ctx context.Context, c Call) context.Context

	// TraceGranted is called when the lock is held and before fn runs. The
	// Event's Outcome is Granted. It is not called for a call that gets no
	// lock, nor for an Exec that goes in one message, which does not see its
	// grant.
	TraceGranted(ctx context.Context, e Event)

	// TraceEnd is called once for each TraceStart, with what Options.Observe is
	// told, and after it: also when fn panics.
	TraceEnd(ctx context.Context, e Event)
}

// Call is what a [Tracer] learns at the start of a call.
type Call struct {
	Op     string        // the method: "WithTx", "Exec", "Lock", …
	Keys   []hashkey.Key // sorted and without duplicates; not to be changed
	Shared bool
}
