package xactlock

import (
	"context"
	"database/sql"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
	"github.com/pgadvisory/pgadvisory/internal/verdict"
)

// Tx is a transaction of the caller's own: a *sql.Tx, or what embeds one, or
// another library's type. A *sql.DB does not fit, on purpose: a lock taken there
// would be freed at once, or never.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	Commit() error
	Rollback() error
}

// Lock takes keys in tx, in one message, waiting for all as long as ctx and
// Options.Wait allow. They are taken in the order of [hashkey.Compare], and
// free when tx ends. Taking a key that tx holds already succeeds.
//
// It waits with tx's connection and in one piece, so that the server sees a deadlock
// over what else tx has locked. But a crowd takes the whole pool, and VACUUM and CREATE
// INDEX CONCURRENTLY wait for it. With Options.Poll they do not, and the server sees no
// deadlock: bound the wait then.
// [WithTxOf] waits as the other calls do.
//
// When Lock returns nil, tx holds all keys, and whatever it reads from then on
// is as fresh as they are. That cannot be had from a REPEATABLE READ or
// SERIALIZABLE transaction: its snapshot may be older than the lock. The
// error is [ErrStaleSnapshot], nothing was locked, and tx is as it was. The
// same goes for [ErrStandby] and [ErrUnsupportedServer]. Where a statement has
// ended tx, nothing is locked, and the error has SQLSTATE 25P01.
//
// A statement that fails later frees keys there and then, unless it fails
// inside a savepoint that came after Lock: PostgreSQL frees what a transaction
// holds when it aborts, which is before the ROLLBACK.
//
// A transaction that prepares each text that it is given, as gorm's does with
// PrepareStmt, takes one statement at a time, and a message for each. Lock knows
// it by gorm's method GetDBConn.
//
// After any other error, such as [ErrNotAcquired] or [ErrDeadlock], tx can only
// be rolled back, as after any failed statement.
func (l *Locker) Lock(ctx context.Context, tx Tx, keys ...hashkey.Key) error {
	return l.ownTx(tx, keys).Lock(ctx)
}

// TryLock takes keys in tx, all or none, without waiting, and reports whether
// it did. If it returns false and nil, another session has one of them or waits
// for it, and tx holds what it held before and can be used on.
//
// It returns the errors of [Locker.Lock], less [ErrNotAcquired] as long as ctx
// has not ended.
func (l *Locker) TryLock(ctx context.Context, tx Tx, keys ...hashkey.Key) (bool, error) {
	return l.ownTx(tx, keys).TryLock(ctx)
}

// ownTx returns a request for keys in tx.
func (l *Locker) ownTx(tx Tx, keys []hashkey.Key) *verdict.OwnTx {
	own := verdict.Own(l.calls(), tx, keys)
	own.Exec, own.Apart = execOn(tx), preparesTexts(tx)
	return own
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
// A server that crashes forgets the ids of transactions that have written
// nothing, or have not committed, and may give one of them to a later holder.
// A token of package sessionlock outlives a crash.
//
// It is not the xmin of the rows that fn writes: fn writes inside a
// savepoint, which has an id of its own.
func Token(ctx context.Context, tx interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (uint64, error) {
	if lockerr.IsNil(tx) {
		return 0, txlock.NilTx(pkg)
	}
	return verdict.Token(pkg, tx.QueryRowContext(ctx, locksql.Token))
}
