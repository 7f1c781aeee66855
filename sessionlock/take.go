package sessionlock

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// Lock waits for the lock of key and returns it. The caller must call
// [Lock.Unlock], whatever becomes of it; until then it keeps a connection of
// the pool. Uncontended, that is one message to the server.
//
// An error means that nothing is held: [ErrNotAcquired] if ctx or Options.Wait
// ended first, wherever the call was by then, or [ErrPooler], [ErrNested],
// [ErrUnsupportedServer], [ErrStandby], or what the driver or the server said.
// Where the server has answered, the connection goes back to the pool.
//
// Of all goroutines that wait for one key through one Locker, one waits on the
// server, with a connection, for half a second at a time; the rest wait in
// memory, first come, first served. All waiters together leave half of the pool
// alone.
//
// ctx bounds the wait and nothing else: the lock stays when ctx ends.
func (l *Locker) Lock(ctx context.Context, key hashkey.Key) (*Lock, error) {
	return l.take(ctx, key, l.request(ctx, false))
}

// TryLock is [Locker.Lock] for a lock that is free: if another session holds it
// or waits for it, the error is [ErrNotAcquired] at once. ctx and Options.Wait
// bound the wait for a connection.
func (l *Locker) TryLock(ctx context.Context, key hashkey.Key) (*Lock, error) {
	return l.take(ctx, key, l.request(ctx, true))
}

// take returns a lock whose loss is told when it is noticed, though no callback runs.
func (l *Locker) take(ctx context.Context, key hashkey.Key, r request) (*Lock, error) {
	k, err := l.acquire(ctx, key, r)
	if err == nil && (l.opts.Observe != nil || l.opts.Trace != nil) {
		context.AfterFunc(k.held, k.tellLost) // the grant is told by now
	}
	return k, err
}

// WithLock waits for the lock of key, runs fn once while it is held and gives
// it back.
//
// fn's ctx is the caller's, and also ends when the lock is lost; its cause is
// then [ErrLost]. fn should stop its work as soon as it can: the next holder may
// have begun. The ctx ends with the call, too.
//
// fn's conn is the session that holds the lock, for fn's statements if it has
// any; fn must neither close it nor leave a transaction or rows open. When the
// ctx of a statement on conn ends, the lock goes with it, unless pgx is
// configured otherwise: see [Lock.Conn].
//
// WithLock returns fn's error, unchanged where the lock was held to the end.
// Otherwise the error is ErrLost, joined with fn's where there is one. If fn
// panics or ends its goroutine, the lock is given back too. fn has not run if
// the error is one of [Locker.Lock]'s.
func (l *Locker) WithLock(ctx context.Context, key hashkey.Key, fn func(ctx context.Context, conn *sql.Conn) error) error {
	return l.with(ctx, key, fn, l.request(ctx, false))
}

// TryWithLock is [Locker.WithLock] for a lock that is free: if another session
// holds it or waits for it, fn does not run, and the error is [ErrNotAcquired]
// at once. ctx and Options.Wait bound the wait for a connection.
func (l *Locker) TryWithLock(ctx context.Context, key hashkey.Key, fn func(ctx context.Context, conn *sql.Conn) error) error {
	return l.with(ctx, key, fn, l.request(ctx, true))
}

// WithSlot is [Locker.WithLock] for a resource that n holders may have at once:
// it holds one of the n slots of key, see [hashkey.Key.Slot]. All callers must
// agree on n, which is at most 10,000. Slot 0 is key's own lock, so a WithLock of key counts as one holder.
// With Options.Shared any number of shared holders have one slot.
//
// A free slot is found in one message. A call that finds none waits for one of
// them, half a second at a time, and then looks at all of them. So it is granted
// within half a second of the release of any slot; callers of one Locker take
// turns, first come, first served, and callers of several processes do not.
//
// A call with fn's ctx on the same pool, for a slot of key or for key, is
// refused with [ErrNested]: it could wait for fn.
func (l *Locker) WithSlot(ctx context.Context, key hashkey.Key, n int, fn func(ctx context.Context, conn *sql.Conn) error) error {
	return l.withSlot(ctx, key, n, fn, false)
}

// TryWithSlot is [Locker.WithSlot] for a slot that is free: if there is none, fn
// does not run, and the error is [ErrNotAcquired] at once. ctx and Options.Wait
// bound the wait for a connection.
func (l *Locker) TryWithSlot(ctx context.Context, key hashkey.Key, n int, fn func(ctx context.Context, conn *sql.Conn) error) error {
	return l.withSlot(ctx, key, n, fn, true)
}

func (l *Locker) withSlot(ctx context.Context, key hashkey.Key, n int, fn func(ctx context.Context, conn *sql.Conn) error, try bool) error {
	if n < 1 || n > locksql.MaxSlots {
		return fmt.Errorf("sessionlock: %s: %d slots, and it is 1 to %d", key, n, locksql.MaxSlots)
	}
	r := l.request(ctx, try)
	r.slots = n
	return l.with(ctx, key, fn, r)
}

func (l *Locker) with(ctx context.Context, key hashkey.Key, fn func(ctx context.Context, conn *sql.Conn) error, r request) error {
	if fn == nil {
		return errNilFunc
	}
	k, err := l.acquire(ctx, key, r)
	if err != nil {
		return err
	}
	return k.during(ctx, func(ctx context.Context) error { return fn(ctx, k.Conn()) })
}
