package xactlock

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// Tx is a transaction of the caller's own: a *sql.Tx, or what embeds one, or
// another library's type. A *sql.DB does not fit, on purpose: a lock taken there
// would be freed at once, or never.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	Commit() error
	Rollback() error
}

// Lock takes keys in tx, in one message, waiting for each as long as ctx and
// Options.Wait allow. They are taken in the order of [hashkey.Compare], and
// free when tx ends. Taking a key that tx holds already succeeds.
//
// When Lock returns nil, tx holds all keys, and whatever it reads from then on
// is as fresh as they are. That cannot be had from a REPEATABLE READ or
// SERIALIZABLE transaction, whose snapshot may be older than the lock: the
// error is [ErrStaleSnapshot], nothing was locked, and tx is as it was. The
// same goes for [ErrStandby] and [ErrUnsupportedServer].
//
// A statement that fails later frees keys there and then, unless it fails
// inside a savepoint that came after Lock: PostgreSQL frees what a transaction
// holds when it aborts, which is before the ROLLBACK.
//
// After any other error, such as [ErrNotAcquired] or [ErrDeadlock], tx can only
// be rolled back, as after any failed statement.
func (l *Locker) Lock(ctx context.Context, tx Tx, keys ...hashkey.Key) error {
	if err := l.checkTx(tx, keys); err != nil {
		return err
	}
	keys = ordered(keys)
	if l.opts.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.opts.Wait)
		defer cancel()
	}
	if l.opts.Poll > 0 {
		return l.poll(ctx, tx, keys)
	}
	patient, cancel := pastDeadline(ctx)
	defer cancel()
	_, err := askVerdict(patient, tx, locksql.WaitIn(l.opts.Shared, keys, untilDeadline(ctx), false))
	return acquired(ctx, keys, err)
}

// TryLock takes keys in tx, all or none, without waiting, and reports whether
// it did. If it returns false and nil, somebody else has one of them or waits
// for it, and tx holds what it held before and can be used on.
//
// Its errors are those of [Locker.Lock], less [ErrNotAcquired] as long as ctx
// has not ended.
func (l *Locker) TryLock(ctx context.Context, tx Tx, keys ...hashkey.Key) (bool, error) {
	if err := l.checkTx(tx, keys); err != nil {
		return false, err
	}
	keys = ordered(keys)
	patient, cancel := pastDeadline(ctx)
	defer cancel()
	ok, err := askVerdict(patient, tx, locksql.TryIn(l.opts.Shared, keys, false))
	return ok, acquired(ctx, keys, err)
}

func (l *Locker) checkTx(tx Tx, keys []hashkey.Key) error {
	switch {
	case l.invalid() != nil:
		return l.invalid()
	case tx == nil:
		return errNilTx
	case len(keys) == 0:
		return errNoKeys
	}
	return nil
}

// acquired returns the error of an attempt on the caller's transaction.
func acquired(ctx context.Context, keys []hashkey.Key, err error) error {
	switch err {
	case nil:
		return nil
	case ErrStaleSnapshot, ErrStandby, ErrUnsupportedServer:
		return about(err, keys)
	}
	return lockerr.AcquireError(ctx, "xactlock", keys, err)
}

func (l *Locker) poll(ctx context.Context, tx Tx, keys []hashkey.Key) error {
	for {
		ok, err := l.TryLock(ctx, tx, keys...)
		if ok || err != nil {
			return err
		}
		if !acquire.Sleep(ctx, l.opts.Poll) {
			return lockerr.AcquireError(ctx, "xactlock", keys, nil)
		}
	}
}

// untilDeadline returns the time that ctx leaves, at least a millisecond, or 0
// where it has no deadline.
func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}

// Token returns the fencing token of tx: the transaction's id, which the
// server assigns on first use (pg_current_xact_id). Called while tx holds a
// lock, it is larger than the token of every earlier holder of that lock, so
// that a system outside the database can refuse what comes late from a holder
// that lost it. It is the same for the whole transaction.
//
// A transaction of the caller's own must take the lock before it writes: what
// it writes has it assigned an id, and another holder may have had the lock,
// with a larger one, in between.
//
// The id is not on the disk before COMMIT. If the server crashes before that,
// the transaction is gone, and a later one may be given its id.
//
// It is not the xmin of the rows that fn writes: those are written inside a
// savepoint, which has an id of its own.
func Token(ctx context.Context, tx interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (uint64, error) {
	if tx == nil {
		return 0, errNilTx
	}
	var id string
	if err := tx.QueryRowContext(ctx, "select pg_catalog.pg_current_xact_id()::pg_catalog.text").Scan(&id); err != nil {
		return 0, fmt.Errorf("xactlock: token: %w", err)
	}
	token, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("xactlock: token: %w", err)
	}
	return token, nil
}
