package pgxlock

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// WithTx waits for the lock of key and runs fn once, in a transaction that
// holds it. Uncontended, that is two messages to the server.
//
// If fn returns nil, the transaction commits, and WithTx returns nil: fn's
// writes are durable, the lock is free, and the next holder sees them.
//
// If fn returns an error or panics, the transaction is rolled back, and the
// error or the panic reaches the caller unchanged. If ctx ends inside fn, its
// statements fail with ctx's error, but the lock is held until fn returns;
// then the transaction is rolled back and WithTx returns fn's error, or ctx's
// where fn returned nil. The same goes for a statement error that fn does not
// return: the transaction cannot commit, and WithTx returns an error that is
// pgx.ErrTxCommitRollback. An error inside a nested transaction (tx.Begin) that
// fn rolls back is none.
//
// fn has not run if the error is [ErrNotAcquired] (ctx or Options.Wait ended
// first, wherever the call was by then), [ErrNested], [ErrDeadlock],
// [ErrLockTableFull], [ErrUnsupportedServer] or [ErrStandby]. It has run, and
// nothing of it is committed, if the error is [ErrLost], which wraps fn's own, or
// [ErrTxEnded] after tx.Commit or tx.Rollback. SQL text that ends the transaction
// does what it says, and the error is ErrTxEnded too, joined with fn's own or
// ctx's. After [ErrCommitUnknown] it may be committed or not. In every case the
// lock is not left behind, and the connection is back in the pool or closed.
//
// The transaction's now() is the time of the call, before any wait; use
// clock_timestamp() for times that must come after an earlier holder's.
func (l *Locker) WithTx(ctx context.Context, key hashkey.Key, fn Func) error {
	return l.run(ctx, "WithTx", key, nil, false, fn)
}

// TryWithTx is [Locker.WithTx] for a lock that is free: if another session holds
// it, or waits for it on the server, TryWithTx returns [ErrNotAcquired] at
// once and fn has not run. It waits for a connection of the pool, as long as
// ctx and Options.Wait allow.
func (l *Locker) TryWithTx(ctx context.Context, key hashkey.Key, fn Func) error {
	return l.run(ctx, "TryWithTx", key, nil, true, fn)
}

// WithTxAll is [Locker.WithTx] for several locks, all or nothing. They are
// taken in the order of [hashkey.Compare] whatever the order of keys, so that
// calls with overlapping keys do not deadlock; a key given twice is taken
// once. No keys at all is an error.
func (l *Locker) WithTxAll(ctx context.Context, keys []hashkey.Key, fn Func) error {
	return l.run(ctx, "WithTxAll", hashkey.Key{}, txlock.Ordered(keys), false, fn)
}

// TryWithTxAll is [Locker.WithTxAll] for locks that are free: if one of them is
// not, it returns [ErrNotAcquired] at once, fn has not run, and none is held.
func (l *Locker) TryWithTxAll(ctx context.Context, keys []hashkey.Key, fn Func) error {
	return l.run(ctx, "TryWithTxAll", hashkey.Key{}, txlock.Ordered(keys), true, fn)
}

// WithSlot is [Locker.WithTx] for a resource that n holders may have at once: it
// holds one of the n slots of key, see [hashkey.Key.Slot]. All callers must agree
// on n, which is at most 10,000. Slot 0 is key's own lock, so a WithTx of key counts as one holder.
// With Options.Shared any number of shared holders have one slot.
//
// A free slot is found in one message. A call that finds none waits for one of
// them, half a second at a time, and then looks at all of them. So it is granted
// within half a second of the release of any slot; callers of one Locker take
// turns, first come, first served, and callers of several processes do not.
func (l *Locker) WithSlot(ctx context.Context, key hashkey.Key, n int, fn Func) error {
	return l.runSlot(ctx, "WithSlot", key, n, false, fn)
}

// TryWithSlot is [Locker.WithSlot] for a slot that is free: if there is none, it
// returns [ErrNotAcquired] at once and fn has not run.
func (l *Locker) TryWithSlot(ctx context.Context, key hashkey.Key, n int, fn Func) error {
	return l.runSlot(ctx, "TryWithSlot", key, n, true, fn)
}

// Value is [Locker.WithTx] for an fn with a result. It returns the result if
// the transaction committed, and the zero T otherwise.
func Value[T any](ctx context.Context, l *Locker, key hashkey.Key, fn func(context.Context, pgx.Tx) (T, error)) (T, error) {
	return value(ctx, l, "Value", key, false, fn)
}

// TryValue is [Locker.TryWithTx] for an fn with a result, as [Value].
func TryValue[T any](ctx context.Context, l *Locker, key hashkey.Key, fn func(context.Context, pgx.Tx) (T, error)) (T, error) {
	return value(ctx, l, "TryValue", key, true, fn)
}

func value[T any](ctx context.Context, l *Locker, op string, key hashkey.Key, try bool, fn func(context.Context, pgx.Tx) (T, error)) (T, error) {
	var result, zero T
	var wrapped Func
	if fn != nil {
		wrapped = func(ctx context.Context, tx pgx.Tx) (err error) {
			result, err = fn(ctx, tx)
			return err
		}
	}
	if err := l.run(ctx, op, key, nil, try, wrapped); err != nil {
		return zero, err
	}
	return result, nil
}
