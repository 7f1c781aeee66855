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
	call := new(acquire.Call)
	k, err := l.ask(ctx, call, key, r)
	if err == nil && k.common != nil && !k.onCommon {
		k.seat = call // it has the connection on which it was waited for
	} else {
		call.End()
	}
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
	if l.opts.Shareable && r.slots == 0 {
		return l.askShareable(ctx, call, key, r)
	}
	c, err := call.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return newLock(c.(*conn), r), nil
}

// askShareable waits for a Shareable lock: first until no other lock of this
// Locker is in the way, then as others do.
func (l *Locker) askShareable(ctx context.Context, call *acquire.Call, key hashkey.Key, r request) (k *Lock, err error) {
	lease := max(l.opts.deadClient(), time.Second)
	r.pulse = min(r.pulse, lease/3)
	own := &pool{locker: l, key: key, settings: pinned(l.opts.deadClient(), lease)}
	call.Pool = &commonPool{own}
	waitCtx, cancel, err := call.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if !l.common.turns.take(waitCtx, key, l.opts.Shared, r.try) {
		if r.try {
			return nil, about(key, ErrNotAcquired)
		}
		return nil, call.NotAcquired(waitCtx, nil)
	}
	defer func() {
		if k == nil {
			l.common.turns.give(key, l.opts.Shared)
		}
	}()
	granted, err := call.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	c := granted.(*commonConn)
	if c.own == nil {
		return l.common.add(l, c.session, key, r), nil
	}
	k = newLock(c.own, r)
	k.common = l.common
	return k, nil
}
