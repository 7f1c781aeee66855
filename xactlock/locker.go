package xactlock

import (
	"context"
	"database/sql"
	"slices"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/admission"
)

// Func is what runs while the lock is held. Its ctx is the caller's, marked so
// that a nested call on the same pool is refused rather than waiting for ever,
// and ended by Options.MaxHold. Its tx is a transaction that holds the lock,
// for reads and writes only: ending it is WithTx's business.
type Func = func(ctx context.Context, tx *sql.Tx) error

// A Locker takes locks through one pool. Make one for each pool and share it;
// it is safe for concurrent use, and holds nothing that must be closed.
//
// Most callers want [Locker.WithTx], which waits its turn. [Locker.TryWithTx]
// is for work that need not be done twice; [Locker.WithTxAll] is for several
// locks at once; [Locker.Lock] is for a transaction that the caller has begun.
type Locker struct {
	db    *sql.DB
	queue *admission.Queue
	opts  Options
	bad   error // what is wrong with opts
}

// New returns a Locker on db with the zero [Options]. It does not connect, and
// never closes or reconfigures db.
func New(db *sql.DB) *Locker {
	return &Locker{db: db, queue: admission.NewQueue(func() int { return db.Stats().MaxOpenConnections })}
}

// With returns a Locker with the options o, on the same pool and with the same
// queue. o replaces all options of l; l itself does not change. To change one of
// them, start from [Locker.Options].
func (l *Locker) With(o Options) *Locker {
	if l == nil {
		return new(Locker) // whose calls say so
	}
	return &Locker{db: l.db, queue: l.queue, opts: o, bad: o.validate()}
}

// Options returns the options of l.
func (l *Locker) Options() Options {
	if l == nil {
		return Options{}
	}
	return l.opts
}

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
// pgx.ErrTxCommitRollback.
//
// fn has not run if the error is [ErrNotAcquired] (ctx or Options.Wait ended
// first, wherever the call was by then), [ErrNested], [ErrDeadlock],
// [ErrLockTableFull], [ErrUnsupportedServer] or [ErrStandby]. It has run, and
// nothing of it is committed, if the error is [ErrTxEnded] after tx.Commit or
// tx.Rollback. After [ErrCommitUnknown] nobody knows. In every case the lock
// is not left behind, and the connection is back in the pool or closed.
//
// The transaction's now() is the time of the call, before any wait; use
// clock_timestamp() for times that must follow those of earlier holders.
func (l *Locker) WithTx(ctx context.Context, key hashkey.Key, fn Func) error {
	return l.run(ctx, "WithTx", key, nil, false, fn)
}

// TryWithTx is [Locker.WithTx] for a lock that is free: if somebody else holds
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
	return l.run(ctx, "WithTxAll", hashkey.Key{}, ordered(keys), false, fn)
}

// TryWithTxAll is [Locker.WithTxAll] for locks that are free: if one of them is
// not, it returns [ErrNotAcquired] at once, fn has not run, and none is held.
func (l *Locker) TryWithTxAll(ctx context.Context, keys []hashkey.Key, fn Func) error {
	return l.run(ctx, "TryWithTxAll", hashkey.Key{}, ordered(keys), true, fn)
}

// Value is [Locker.WithTx] for an fn with a result. It returns the result if
// the transaction committed, and the zero T otherwise.
func Value[T any](ctx context.Context, l *Locker, key hashkey.Key, fn func(context.Context, *sql.Tx) (T, error)) (T, error) {
	return value(ctx, l, "Value", key, false, fn)
}

// TryValue is [Locker.TryWithTx] for an fn with a result, as [Value].
func TryValue[T any](ctx context.Context, l *Locker, key hashkey.Key, fn func(context.Context, *sql.Tx) (T, error)) (T, error) {
	return value(ctx, l, "TryValue", key, true, fn)
}

func value[T any](ctx context.Context, l *Locker, op string, key hashkey.Key, try bool, fn func(context.Context, *sql.Tx) (T, error)) (T, error) {
	var result, zero T
	var wrapped Func
	if fn != nil {
		wrapped = func(ctx context.Context, tx *sql.Tx) (err error) {
			result, err = fn(ctx, tx)
			return err
		}
	}
	if err := l.run(ctx, op, key, nil, try, wrapped); err != nil {
		return zero, err
	}
	return result, nil
}

// ordered returns keys sorted and without duplicates.
func ordered(keys []hashkey.Key) []hashkey.Key {
	keys = slices.SortedFunc(slices.Values(keys), hashkey.Compare)
	if keys == nil {
		return []hashkey.Key{}
	}
	return slices.CompactFunc(keys, func(a, b hashkey.Key) bool { return hashkey.Compare(a, b) == 0 })
}
