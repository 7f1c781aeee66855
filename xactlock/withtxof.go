package xactlock

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/sqlconn"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
	"github.com/pgadvisory/pgadvisory/internal/verdict"
)

// WithTxOf is [Locker.WithTx] for a transaction of another library's type, such
// as an ORM's. It waits for its turn in memory, in the same queue as the other
// calls; then begin begins a transaction, in which the lock is taken and fn runs,
// and which WithTxOf commits or rolls back. Uncontended, that is four messages.
//
//	err := xactlock.WithTxOf(ctx, locker, key,
//		func(ctx context.Context) (bun.Tx, error) { return db.BeginTx(ctx, nil) },
//		func(ctx context.Context, tx bun.Tx) error {
//			_, err := tx.NewUpdate().Model(order).WherePK().Exec(ctx)
//			return err
//		})
//
// begin must begin a transaction of the Locker's pool with the ctx that it is
// given, which does not end before the transaction does: database/sql rolls
// back when the ctx of BeginTx ends, and the lock would be free while fn still
// runs. A call that waits for long calls begin again about every half second, and
// rolls back what it has begun before: a transaction that waits longer would be
// in VACUUM's way. begin's error is returned, with the key.
//
// WithTxOf returns what WithTx does, and obeys the same options, but the
// transaction is begin's:
//
//   - The level is the one that begin chooses, and Isolation, ReadOnly, Plain and
//     RequirePgx mean nothing. At REPEATABLE READ and SERIALIZABLE the error is
//     [ErrStaleSnapshot], and fn has not run.
//   - A Commit of fn's, or SQL text that ends the transaction, is noticed when fn
//     returns, but not prevented: the error is [ErrTxEnded], what was committed
//     is, and the lock was free from then on. Where fn leaves rows open, SQL text that
//     ends the transaction is not noticed: the connection takes no question then.
//   - If ctx ends while a statement of fn runs, pgx closes the connection, and the
//     lock is free before fn returns.
//   - fn is not told when its session is gone, before a statement tells it.
//   - Where the type has hooks, a method OnCommit as ent's, an error of Commit is
//     [ErrCommitUnknown]: a hook can have failed after COMMIT. Of any other type an
//     error with an SQLSTATE is taken for the answer to COMMIT.
//   - MaxHold ends fn's ctx. The session of an fn that goes on is ended by the
//     server, as described for a process that hangs.
//   - A panic inside a query, in a parameter's Value for example, leaves a lock of
//     database/sql's taken, for which the end of the transaction waits for ever. So does a
//     RawBytes of rows that are left open. WithTxOf waits for a rollback for five
//     seconds, and for Commit until six seconds after ctx's end, when the error is
//     [ErrCommitUnknown]. The connection stays taken from the pool, and the lock is
//     held, until the server ends the session: see MaxHold.
func WithTxOf[T Tx](ctx context.Context, l *Locker, key hashkey.Key,
	begin func(ctx context.Context) (T, error), fn func(ctx context.Context, tx T) error) error {
	var some Func
	if fn != nil {
		some = func(context.Context, *sql.Tx) error { return nil } // the call has another Conn, which runs fn
	}
	c, err := l.newCall(key, nil, false, some)
	c.Plain = true
	switch {
	case err != nil:
	case begin == nil:
		err = errNilBegin
	default:
		c.Pool = &begunPool[T]{conns: l.conns, transaction: &c.pool.transaction, begin: begin, fn: fn}
	}
	return c.Do(ctx, l.calls().Tell, "WithTxOf", err)
}

// begunPool is the pool that begin begins its transactions on: an [acquire.Pool].
type begunPool[T Tx] struct {
	conns       *sqlconn.Pool
	transaction *locksql.Transaction
	begin       func(ctx context.Context) (T, error)
	fn          func(ctx context.Context, tx T) error
}

// Conn is [acquire.Pool]'s. The connection comes with the transaction.
func (p *begunPool[T]) Conn(ctx context.Context) (acquire.Conn, error) {
	return &begunConn[T]{begunPool: p}, ctx.Err()
}

// OpenConnections is [acquire.Pool]'s.
func (p *begunPool[T]) OpenConnections() int { return p.conns.OpenConnections() }

// begunConn is a transaction that begin has begun, or will: a [txlock.Conn].
type begunConn[T Tx] struct {
	*begunPool[T]
	tx     T
	open   bool
	waited bool            // tx has waited for the lock
	txCtx  context.Context // of tx
	endTx  context.CancelFunc
}

// Open is [txlock.Conn]'s.
func (c *begunConn[T]) Open(ctx context.Context, o acquire.Opening) (granted bool, err error) {
	if c.open && c.waited {
		if err := c.rollback(); err != nil {
			return false, err
		}
	}
	if !c.open {
		if err := c.beginTx(ctx); err != nil {
			return false, err
		}
	}
	patient, cancel := verdict.PastDeadline(ctx)
	defer cancel()
	c.waited = o.Wait
	t := c.transaction
	message := locksql.TryAllIn(t.Shared, []hashkey.Key{t.Keys[0]}, true)
	if o.Wait {
		message = locksql.WaitBegun(t.Shared, t.Keys[0], o.Limit)
	}
	granted, err = verdict.Ask(patient, execOn(c.tx), message)
	if granted && err == nil && t.MaxHold > 0 {
		_, err = send(patient, c.tx, locksql.MaxHold(t.MaxHold))
	}
	return granted && err == nil, err
}

func (c *begunConn[T]) beginTx(ctx context.Context) error {
	txCtx, endTx, stop := whileBegun(ctx)
	begun := false
	defer func() {
		if !begun { // begin may panic
			stop()
			endTx()
		}
	}()
	tx, err := c.begin(txCtx)
	switch {
	case err != nil:
		return fmt.Errorf("begin: %w", lockerr.Foreign(err))
	case lockerr.IsNil(tx):
		return errBegunNil
	}
	begun = true
	c.tx, c.txCtx, c.endTx, c.open, c.waited = tx, txCtx, endTx, true, false
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// Run is [txlock.Conn]'s.
func (c *begunConn[T]) Run(ctx context.Context) error { return c.fn(ctx, c.tx) }

// Refuse is [txlock.Conn]'s.
func (c *begunConn[T]) Refuse(ctx context.Context) (txlock.Outcome, error) {
	return refused(ctx, c.tx, c.transaction.Keys, func() bool { return false })
}

// Commit is [txlock.Conn]'s.
func (c *begunConn[T]) Commit(ctx context.Context) (txlock.Outcome, error) {
	ended := start(c.tx.Commit)
	stop := endAfter(ctx, c.txCtx, endingPatience, c.endTx)
	defer stop()
	err, ok := ended.before(c.txCtx, stuckPatience)
	if !ok {
		c.open = false // a Rollback would wait as well
		return txlock.Unknown, lockerr.CommitUnknown(c.transaction.Keys, errStuck)
	}
	outcome, err := c.committed(err)
	if outcome == txlock.Committed {
		c.open = false
		c.endTx()
	}
	return outcome, err
}

// committed is [committed], for an error that may not be the answer to COMMIT: the
// Commit of an ORM's may run hooks, after COMMIT too, and return their errors.
func (c *begunConn[T]) committed(err error) (txlock.Outcome, error) {
	keys := c.transaction.Keys
	if err != nil && reflect.ValueOf(c.tx).MethodByName("OnCommit").IsValid() {
		return txlock.Unknown, lockerr.CommitUnknown(keys, err)
	}
	return committed(keys, err)
}

// Release is [txlock.Conn]'s.
func (c *begunConn[T]) Release(context.Context) {
	if c.open {
		_ = c.rollback() // fails where the transaction is over, or its session
	}
}

// rollback rolls back, and returns after endingPatience where that does not: a
// panic inside a method of database/sql leaves a lock of its own taken.
func (c *begunConn[T]) rollback() error {
	c.open = false
	defer c.endTx()
	err, ok := start(c.tx.Rollback).within(endingPatience)
	if !ok {
		return errStuck
	}
	return err
}

// Lost is [txlock.Conn]'s. Nothing is known of the session.
func (c *begunConn[T]) Lost() bool { return false }

// Cut is [txlock.Conn]'s. The session is left to the server.
func (c *begunConn[T]) Cut() bool { return false }

// Closed is [txlock.Conn]'s.
func (c *begunConn[T]) Closed() bool { return false }
