package xactlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// Tx is a transaction of the caller's own: a *sql.Tx, or what embeds one. A
// *sql.DB does not fit, on purpose: a lock taken there would be freed at once,
// or never.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	Commit() error
	Rollback() error
}

var errNilTx = errors.New("xactlock: tx is nil")

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
	_, err := askVerdict(patient, tx, l.waitIn(keys, untilDeadline(ctx), false))
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
	ok, err := askVerdict(patient, tx, l.tryIn(keys, false))
	return ok, acquired(ctx, keys, err)
}

func (l *Locker) checkTx(tx Tx, keys []hashkey.Key) error {
	switch {
	case l.invalid != nil:
		return l.invalid
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
		return fmt.Errorf("%w: %s", err, lockerr.Keys(keys))
	}
	return lockerr.Acquire(ctx, "xactlock", keys, err)
}

func (l *Locker) poll(ctx context.Context, tx Tx, keys []hashkey.Key) error {
	for {
		ok, err := l.TryLock(ctx, tx, keys...)
		if ok || err != nil {
			return err
		}
		if !sleep(ctx, l.opts.Poll) {
			return lockerr.Acquire(ctx, "xactlock", keys, nil)
		}
	}
}

// sleep sleeps for d and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
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

// atDeadline reports whether ctx's deadline has come, a moment before ctx itself
// may have noticed.
func atDeadline(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// pastDeadline returns a ctx that ends with parent's cancellation, but only
// some time after its deadline: the server knows that as lock_timeout, and its
// answer leaves the connection whole, where a ctx that ends would not.
func pastDeadline(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	if parent.Err() != nil {
		cancel() // now, and not when AfterFunc gets to it
	}
	stop := context.AfterFunc(parent, func() {
		if parent.Err() == context.DeadlineExceeded {
			sleep(ctx, waiting.Slack)
		}
		cancel()
	})
	return ctx, func() { stop(); cancel() }
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
func Token(ctx context.Context, tx Tx) (uint64, error) {
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
