package sessionlock

import (
	"context"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
)

// request is how one call asks for a lock.
type request struct {
	try   bool          // do not wait
	slots int           // >0: any of so many slots of the key
	wait  time.Duration // Options.Wait
	lease time.Duration // >0: the server ends the session after such a silence
	pulse time.Duration // how often the session is asked for the lock
}

func (l *Locker) request(ctx context.Context, try bool) request {
	return request{try: try, wait: l.opts.Wait, pulse: pulse.Interval(ctx)}
}

// acquire waits for the lock of key.
func (l *Locker) acquire(ctx context.Context, key hashkey.Key, r request) (*Lock, error) {
	if l.invalid != nil {
		return nil, l.invalid
	}
	l.observe(Event{Kind: Waiting, Key: key})
	var call acquire.Call
	k, err := l.ask(ctx, &call, key, r)
	call.End()
	if err != nil {
		l.observe(Event{Kind: Failed, Key: key, Waited: call.Waited, Err: err})
		return nil, err
	}
	l.observe(Event{Kind: Granted, Key: key, Waited: call.Waited})
	return k, nil
}

func (l *Locker) ask(ctx context.Context, call *acquire.Call, key hashkey.Key, r request) (*Lock, error) {
	call.Request = acquire.Request{
		Package: "sessionlock",
		Pool:    &pool{locker: l, key: key, slots: r.slots, settings: pinned(l.opts.deadClient(), r.lease)},
		Queue:   l.queue,
		Owner:   l.db,
		Kind:    nesting.Session,

		Keys:     []hashkey.Key{key},
		Shared:   l.opts.Shared,
		Slots:    r.slots,
		Try:      r.try,
		Poll:     l.opts.Poll,
		Persists: true,
	}
	if !r.try {
		call.Wait = r.wait
	}
	c, err := call.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return newLock(c.(*conn), r), nil
}
