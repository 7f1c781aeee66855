package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file is the plain path: one call on a connection of any driver, or of
// pgx where Options.Plain says so, through database/sql alone.

// onPlain begins a transaction on conn, takes the lock there, runs fn and ends
// the transaction.
//
// Where the transaction keeps one snapshot, or the lock must outlive COMMIT
// (see open.go and close.go), the session takes the lock before BEGIN and
// frees it when all is over.
func (c *call) onPlain(ctx, waitCtx context.Context, conn *sql.Conn) error {
	if c.opts.handsOver() {
		if err := c.lockSession(waitCtx, conn); err != nil {
			return err
		}
		defer c.unlockSession(conn)
	}
	// The transaction's context must not end under a running fn, but BeginTx
	// and the question for the lock must end with the wait.
	txCtx, endTx := context.WithCancel(context.WithoutCancel(ctx))
	defer endTx()
	stop := context.AfterFunc(waitCtx, endTx)
	tx, err := conn.BeginTx(txCtx, &sql.TxOptions{Isolation: c.plainLevel(), ReadOnly: c.opts.ReadOnly})
	if err != nil {
		return c.firstAnswer(waitCtx, conn, err)
	}
	defer tx.Rollback() // of what is not committed; also if fn ends the goroutine
	if !stop() {
		return c.notAcquired(waitCtx, nil)
	}
	if err := c.lockPlain(waitCtx, tx); err != nil {
		return err
	}
	err = c.hold(ctx, tx, func() {})
	stop = context.AfterFunc(ctx, func() { sleep(txCtx, ending.Give); endTx() })
	defer stop()
	if err == nil {
		err = c.whyNotCommitPlain(txCtx, tx, conn)
	}
	if err != nil {
		return err
	}
	return c.commitPlain(tx)
}

// plainLevel names READ COMMITTED where the options leave it to the default.
func (c *call) plainLevel() sql.IsolationLevel {
	if c.opts.Isolation == sql.LevelDefault {
		return sql.LevelReadCommitted
	}
	return c.opts.Isolation
}

// lockPlain gets the lock in tx.
func (c *call) lockPlain(waitCtx context.Context, tx *sql.Tx) error {
	ctx, cancel := pastDeadline(waitCtx)
	defer cancel()
	ok, err := false, error(nil)
	if !c.direct || c.opts.handsOver() {
		ok, err = askVerdict(ctx, tx, c.tryIn(c.keys, true))
	}
	switch {
	case err != nil || ok:
	case c.opts.handsOver():
		err = errors.New("BEGIN went to another session than the lock: is there a pooler in transaction mode?")
	case c.direct || c.waitsHere():
		c.contended = true
		ok, err = askVerdict(ctx, tx, c.waitIn(c.keys, untilDeadline(waitCtx), true))
	}
	if err == nil && ok && c.opts.MaxHold > 0 {
		var m locksql.Message
		m.MaxHold(c.opts.MaxHold)
		m.Statement(release) // or else fn's first error would put MaxHold back
		m.Statement(savepoint)
		_, err = tx.ExecContext(ctx, m.String())
	}
	return c.plainAnswer(waitCtx, ok, err)
}

// plainAnswer returns what an answer to the question for the lock means.
func (c *call) plainAnswer(waitCtx context.Context, ok bool, err error) error {
	switch {
	case err != nil:
		return c.notAcquired(waitCtx, err)
	case !ok:
		return errRefused
	}
	return nil
}

// firstAnswer returns what an error of the first statement on conn means.
func (c *call) firstAnswer(waitCtx context.Context, conn *sql.Conn, err error) error {
	if discardDead(conn) && c.diedInPool(waitCtx) {
		return errDead
	}
	return c.notAcquired(waitCtx, err)
}

// discardDead takes conn out of the pool if its driver says that it is of no
// use any more, and reports whether it did. pgx's leave that to whoever gets
// the connection next.
func discardDead(conn *sql.Conn) bool {
	return conn.Raw(func(driverConn any) error {
		var s session
		if s.unwrap(driverConn) {
			if s.pg.IsClosed() {
				return driver.ErrBadConn
			}
		} else if v, ok := driverConn.(driver.Validator); ok && !v.IsValid() {
			return driver.ErrBadConn
		}
		return nil
	}) != nil
}

// lockSession takes the lock for the session of conn.
func (c *call) lockSession(waitCtx context.Context, conn *sql.Conn) error {
	ctx, cancel := pastDeadline(waitCtx)
	defer cancel()
	ok, err := false, error(nil)
	if !c.direct {
		ok, err = askVerdict(ctx, conn, c.sessionVerdict(locksql.TryLock))
		if err != nil && discardDead(conn) {
			return c.firstAnswer(waitCtx, conn, err)
		}
	}
	if err == nil && !ok && (c.direct || c.waitsHere()) {
		c.contended = true
		m := locksql.Sized(2048)
		if len(c.keys) > 1 {
			// The try may have got some, which would be locked twice then.
			m.Begin("read committed", false)
			m.Handover(c.opts.Shared, c.keys)
			m.Statement("rollback")
		}
		m.Begin("read committed", false)
		m.Limit(untilDeadline(waitCtx))
		m.Each(locksql.Lock, c.opts.Shared, c.keys)
		m.Statement("commit")
		_, err = conn.ExecContext(ctx, m.String())
		ok = err == nil
		if err != nil && c.direct && discardDead(conn) {
			return c.firstAnswer(waitCtx, conn, err)
		}
	}
	if err = c.plainAnswer(waitCtx, ok, err); err != nil {
		// Some of the locks may be held, even the one whose wait has failed.
		cleanUp(conn, func(ctx context.Context) error {
			_, err := conn.ExecContext(ctx, c.abandonMessage(c.keys))
			return err
		})
	}
	return err
}

// unlockSession frees what lockSession took.
func (c *call) unlockSession(conn *sql.Conn) {
	cleanUp(conn, func(ctx context.Context) error {
		ok, err := askVerdict(ctx, conn, c.sessionVerdict(locksql.Unlock))
		if err == nil && !ok {
			err = errors.New("the session did not hold the lock")
		}
		return err
	})
}

func (c *call) sessionVerdict(f locksql.Func) string {
	return verdict{whenNoServer, locksql.All(f, c.opts.Shared, c.keys), false}.end(locksql.Message{})
}

// cleanUp runs clean, and closes the connection if that fails, rather than
// give it back to the pool.
func cleanUp(conn *sql.Conn, clean func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), ending.Give)
	defer cancel()
	if clean(ctx) == nil {
		return
	}
	_ = conn.Raw(func(driverConn any) error {
		var s session
		if s.unwrap(driverConn) {
			s.close()
		}
		return driver.ErrBadConn // discards the connection, and is what Raw returns
	})
}

// whyNotCommitPlain is whyNotCommit, as far as database/sql shows it. pgx
// knows the transaction's status; on any other driver, the savepoint is
// released in a message of its own.
func (c *call) whyNotCommitPlain(ctx context.Context, tx *sql.Tx, conn *sql.Conn) error {
	var status byte
	rawErr := conn.Raw(func(driverConn any) error {
		var s session
		switch {
		case !s.unwrap(driverConn):
		case s.pg.IsClosed():
			return pgconn.ErrConnClosed
		default:
			status = s.pg.TxStatus()
		}
		return nil
	})
	switch {
	case rawErr != nil:
		return fmt.Errorf("xactlock: %s: the connection was lost inside fn, and nothing is committed: %w", lockerr.Keys(c.keys), rawErr)
	case status == 'I':
		return c.txEnded()
	case status == 'E':
		return c.swallowed()
	case status != 0:
		return nil
	}
	_, err := tx.ExecContext(ctx, release)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrTxDone), noSuchSavepoint(err):
		return c.txEnded()
	}
	return fmt.Errorf("xactlock: %s: rolled back: %w", lockerr.Keys(c.keys), err)
}

func (c *call) commitPlain(tx *sql.Tx) error {
	err := tx.Commit()
	switch {
	case err == nil:
		c.outcome = Committed
		return nil
	case errors.Is(err, sql.ErrTxDone):
		return c.txEnded()
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return c.swallowed()
	case lockerr.IsAnswer(err) || neverCommitted(err):
		c.outcome = Failed
		return fmt.Errorf("xactlock: %s: commit: %w", lockerr.Keys(c.keys), err)
	}
	c.outcome = Unknown
	return fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(c.keys), err)
}
