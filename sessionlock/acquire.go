package sessionlock

import (
	"context"
	"database/sql"
	"sync"
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
	conn  *sql.Conn     // the caller's own; nil: one of the pool
}

func (l *Locker) request(ctx context.Context, try bool) request {
	return request{try: try, wait: l.Options().Wait, pulse: pulse.Interval(ctx)}
}

// acquire waits for the lock of key.
func (l *Locker) acquire(ctx context.Context, key hashkey.Key, r request) (*Lock, error) {
	if err := l.invalid(); err != nil {
		return nil, err
	}
	ctx = l.opts.tell(ctx, Event{Kind: Waiting, Key: key})
	call := l.call(key, r)
	k, err := l.asked(ctx, call, key, r)
	if err != nil {
		return nil, err
	}
	if l.opts.Trace != nil {
		k.traced = ctx // for Released, if Observe or Trace panics
	}
	granted := false
	defer func() {
		if !granted { // Observe or Trace has panicked
			_ = k.Unlock()
		}
	}()
	ctx = l.opts.tell(ctx, Event{Kind: Granted, Key: key, Waited: call.Waited})
	if l.opts.Trace != nil {
		k.traced = ctx
	}
	granted = true
	return k, nil
}

// asked is ask, and ends the call and tells of its failure where there is no lock.
// The driver, or a hook of the pool's, may panic or end the goroutine.
func (l *Locker) asked(ctx context.Context, call *acquire.Call, key hashkey.Key, r request) (k *Lock, err error) {
	defer func() {
		if k == nil {
			call.End()
			l.opts.tell(ctx, Event{Kind: Failed, Key: key, Waited: call.Waited, Err: err})
		}
	}()
	return l.ask(ctx, call, key, r)
}

func (l *Locker) call(key hashkey.Key, r request) *acquire.Call {
	return &acquire.Call{Request: acquire.Request{
		Package: "sessionlock",
		Queue:   l.queue,
		Owner:   l.db,
		Kind:    nesting.Session,

		Keys:     []hashkey.Key{key},
		Shared:   l.opts.Shared,
		Slots:    r.slots,
		Try:      r.try,
		Wait:     r.wait,
		Poll:     l.opts.Poll,
		Persists: true,
	}}
}

// pool returns the pool as one call uses it. With a lease, the server ends the
// session that has the lock after such a silence.
func (l *Locker) pool(key hashkey.Key, slots int, lease time.Duration) *pool {
	return &pool{
		owner: l.db, conns: l.conns, opts: &l.opts,
		key: key, slots: slots, settings: pinnedSettings(l.opts.deadClient(), lease),
	}
}

// ask ends the call when it returns a lock, unless that is to keep its seat.
func (l *Locker) ask(ctx context.Context, call *acquire.Call, key hashkey.Key, r request) (*Lock, error) {
	if l.opts.Shareable && r.slots == 0 && r.conn == nil {
		return l.askShareable(ctx, call, key, r)
	}
	p := l.pool(key, r.slots, r.lease)
	if call.Pool = p; r.conn != nil {
		call.Pool = &callersPool{pool: p, sqlConn: r.conn}
	}
	c, err := call.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	call.End()
	return pin(c.(*conn), r.pulse, nil), nil
}

// askShareable waits for a Shareable lock: first until no other lock of this
// Locker is in the way, then as any lock does.
func (l *Locker) askShareable(ctx context.Context, call *acquire.Call, key hashkey.Key, r request) (k *Lock, err error) {
	lease := max(l.opts.deadClient(), time.Second)
	r.pulse = min(r.pulse, lease/3)
	own := l.pool(key, 0, lease)
	own.pulse = r.pulse
	call.Pool = &commonPool{own, l.common}
	if call.Poll == 0 && l.db.Stats().MaxOpenConnections == 1 { // which the common session may have, for long
		call.Poll = acquire.Slice
	}
	waitCtx, cancel, err := call.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if !l.common.turns.take(waitCtx, key, l.opts.Shared, r.try) {
		if r.try && waitCtx.Err() == nil {
			return nil, about(key, ErrNotAcquired)
		}
		return nil, call.NotAcquired(waitCtx, nil)
	}
	give := func() { l.common.turns.give(key, l.opts.Shared) }
	defer func() {
		if k == nil {
			give()
		}
	}()
	granted, err := call.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	c := granted.(*commonConn)
	if c.own == nil {
		call.End()
		return c.lock, nil
	}
	return pin(c.own, r.pulse, sync.OnceFunc(func() { // it has the connection on which it was waited for
		call.End()
		give()
	})), nil
}
