package pgadvisoryotel

import (
	"context"
	"errors"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Session is a sessionlock.Options.Trace.
func (t *Telemetry) Session(ctx context.Context, e sessionlock.Event) context.Context {
	const op = "Lock"
	keys := []hashkey.Key{e.Key}
	switch e.Kind {
	case sessionlock.Waiting:
		return t.begin(ctx, op, keys)
	case sessionlock.Granted:
		t.granted(ctx, op, keys, e.Waited)
		return ctx
	}
	failed := e.Kind == sessionlock.Failed
	ended := end{op: op, keys: keys, waited: e.Waited, held: e.Held, outcome: e.Kind.String(), failure: failure(e.Err, !failed, failed)}
	if failed && errors.Is(e.Err, sessionlock.ErrNotAcquired) {
		ended.outcome = xactlock.NotAcquired.String()
	}
	t.end(ctx, ended)
	return ctx
}
