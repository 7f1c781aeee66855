package xactlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
	"github.com/pgadvisory/pgadvisory/internal/verdict"
)

// plainConn is a connection of any driver, or of pgx where Options.Plain says
// so, used through database/sql alone: a [txlock.Conn].
//
// Where the transaction keeps one snapshot, or the lock must outlive COMMIT, the
// session takes the lock before BEGIN and frees it when all is over.
type plainConn struct {
	job     *job
	conn    *sql.Conn
	tx      *sql.Tx
	txCtx   context.Context    // of tx: ctx's end does not end it
	endTx   context.CancelFunc // ends txCtx
	waited  bool               // tx has waited for the lock
	locked  bool               // the session has the lock, or may have it
	session *pgsession.Session // where the driver is pgx and shows it
	stuck   bool               // a lock of database/sql's stays taken, and the session is closed
	closed  bool               // the connection was dead
}

// Open is [txlock.Conn]'s.
func (c *plainConn) Open(ctx context.Context, o acquire.Opening) (granted bool, err error) {
	t := &c.job.transaction
	if t.OneSnapshot() && t.Slots > 0 {
		return false, errSlotsPlain
	}
	if t.OneSnapshot() && !c.locked {
		if granted, err := c.lockSession(ctx, o); err != nil || !granted {
			return false, err
		}
	}
	if c.waited { // a transaction that goes on would hold up sessions that wait for its end
		if err := c.rollback(); err != nil && discardDead(c.conn) {
			c.closed = true
			return false, err
		}
	}
	if c.tx == nil {
		if err := c.begin(ctx); err != nil {
			return false, err
		}
	}
	patient, cancel := verdict.PastDeadline(ctx)
	defer cancel()
	c.waited = o.Wait && !t.OneSnapshot()
	granted, err = verdict.Ask(patient, execOn(c.tx), c.message(o))
	switch {
	case err != nil:
		return false, err
	case !granted && t.OneSnapshot():
		return false, errors.New("BEGIN went to another session than the lock: is there a pooler in transaction mode?")
	case granted && t.MaxHold > 0:
		_, err = send(patient, c.tx, locksql.MaxHold(t.MaxHold))
	}
	return granted && err == nil, err
}

// message asks for the locks in the transaction.
func (c *plainConn) message(o acquire.Opening) locksql.Message {
	t := &c.job.transaction
	switch {
	case t.Slots > 0 && c.waited:
		return locksql.WaitSlotsIn(t.Shared, t.Keys[0], t.Slots, rand.N(t.Slots), o.Limit)
	case t.Slots > 0:
		return locksql.TrySlotsIn(t.Shared, t.Keys[0], t.Slots)
	case c.waited:
		return locksql.WaitIn(t.Shared, t.Keys, o.Limit, true)
	}
	return locksql.TryIn(t.Shared, t.Keys, true)
}

// beginPatience is how long BEGIN may take once ctx has ended. It waits for no
// lock, and a driver may close the connection when a message's ctx ends.
const beginPatience = time.Second

// begin begins the transaction. Its context must not end under a running fn, but
// BeginTx must end soon after the wait.
func (c *plainConn) begin(ctx context.Context) error {
	txCtx, endTx, stop := whileBegun(ctx)
	returned, begun := false, false
	defer func() {
		if !begun {
			stop()
			endTx()
		}
		if !returned { // it has panicked, and database/sql keeps a lock that Close waits for
			c.stuck = true
			_ = c.conn.Raw(closeDriver)
		}
	}()
	tx, err := c.conn.BeginTx(txCtx, &sql.TxOptions{Isolation: c.level(), ReadOnly: c.job.opts.ReadOnly})
	returned = true
	if err != nil {
		c.closed = discardDead(c.conn)
		return err
	}
	begun = true
	c.tx, c.txCtx, c.endTx, c.waited = tx, txCtx, endTx, false
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// whileBegun returns the ctx of a transaction that is begun because of ctx. It
// ends a while after ctx, unless stop is called before ctx ends, which stop
// reports, and by endTx.
func whileBegun(ctx context.Context) (txCtx context.Context, endTx context.CancelFunc, stop func() bool) {
	txCtx, endTx = context.WithCancel(context.WithoutCancel(ctx))
	return txCtx, endTx, endAfter(ctx, txCtx, beginPatience, endTx)
}

// level names READ COMMITTED where the options leave it to the default.
func (c *plainConn) level() sql.IsolationLevel {
	if c.job.opts.Isolation == sql.LevelDefault {
		return sql.LevelReadCommitted
	}
	return c.job.opts.Isolation
}

// Run is [txlock.Conn]'s.
func (c *plainConn) Run(ctx context.Context) error { return c.job.fn(ctx, c.tx) }

// Lost is [txlock.Conn]'s. It is not known of another driver's session.
func (c *plainConn) Lost() bool {
	if c.session == nil {
		return false
	}
	closed, known := c.session.PeerClosed()
	return closed && known
}

// Cut is [txlock.Conn]'s. Another driver's session is left to the server.
func (c *plainConn) Cut() bool {
	return c.session != nil && (&pgtx.Tx{Session: c.session}).Cut()
}

// Refuse is [txlock.Conn]'s. pgx knows the transaction's status. On any driver the
// savepoint is then released, in a message of its own: where the session is gone,
// it is so before COMMIT is sent.
func (c *plainConn) Refuse(ctx context.Context) (txlock.Outcome, error) {
	t := pgtx.Tx{Package: pkg, Session: c.session, Transaction: &c.job.transaction}
	outcome, err := txlock.RolledBack, error(nil)
	if t.Session != nil {
		_ = c.conn.Raw(func(any) error { // fails where the connection is closed, which is seen below
			outcome, err = t.Refuse(nil, nil)
			return nil
		})
	}
	switch {
	case errors.Is(err, ErrTxEnded):
		return outcome, lockerr.TxEnded(t.Keys, lockerr.EndedUnseen)
	case err != nil:
		return outcome, err
	}
	return refused(ctx, c.tx, t.Keys, func() bool { return isDead(c.conn) })
}

// Commit is [txlock.Conn]'s.
func (c *plainConn) Commit(ctx context.Context) (txlock.Outcome, error) {
	stop := endAfter(ctx, c.txCtx, endingPatience, c.endTx)
	defer c.endTx() // which would roll back beside Release, before Commit
	defer stop()
	keys := c.job.transaction.Keys
	err := c.finish(c.tx.Commit)
	if c.stuck {
		return txlock.RolledBack, fmt.Errorf("%s: %s: rolled back: %w", pkg, lockerr.Keys(keys), err)
	}
	return committed(keys, err)
}

// stuckPatience is how long database/sql may take to get to the end of a
// transaction.
const stuckPatience = time.Second

var errStuck = errors.New("a panic inside a statement, or rows that are open, keep database/sql from ending the transaction")

// finish ends the transaction by end, which is its Commit or Rollback.
//
// A panic inside a method of database/sql, and a RawBytes that was scanned from
// rows that are still open, leave a lock of database/sql's taken, and end waits
// for that for ever. Then the session is closed, which rolls back. So it is after
// a panic inside end, which leaves database/sql's transaction half ended.
func (c *plainConn) finish(end func() error) error {
	ending := start(end)
	returned := false
	defer func() {
		if !returned {
			c.stuck = true
			_ = c.conn.Raw(closeDriver)
		}
	}()
	err, ok := ending.within(stuckPatience)
	if !ok {
		_ = c.conn.Raw(func(any) error { return nil }) // waits for a message that is under way
		err, ok = ending.within(stuckPatience)
	}
	if !ok {
		_ = c.conn.Raw(closeDriver)
		err, ok = ending.within(stuckPatience)
	}
	returned = true
	if !ok {
		c.stuck = true
		return errStuck
	}
	return err
}

// rollback ends the transaction, if there is one. It fails where it is over.
func (c *plainConn) rollback() error {
	if c.tx == nil {
		return nil
	}
	defer func() { c.endTx(); c.tx = nil }()
	defer time.AfterFunc(endingPatience, c.endTx).Stop() // ctx's end has not ended txCtx
	return c.finish(c.tx.Rollback)
}

// Release is [txlock.Conn]'s.
func (c *plainConn) Release(context.Context) {
	if c.conn == nil {
		return
	}
	defer c.giveBack() // also if Rollback panics
	if !c.stuck {
		_ = c.rollback() // the session is given back, or is gone
	}
}

// giveBack gives the connection back to the pool.
func (c *plainConn) giveBack() {
	conn := c.conn
	c.conn = nil
	if c.stuck {
		go conn.Close() // it waits for the same lock
		return
	}
	if c.locked {
		c.unlockSession(conn)
	}
	discardDead(conn)
	_ = conn.Close() // fails only on a connection that is forgotten
}

// Closed is [txlock.Conn]'s.
func (c *plainConn) Closed() bool { return c.closed }

// lockSession takes the lock for the session, or waits for it. If it is not
// granted, the session holds nothing.
func (c *plainConn) lockSession(ctx context.Context, o acquire.Opening) (granted bool, err error) {
	t := &c.job.transaction
	patient, cancel := verdict.PastDeadline(ctx)
	defer cancel()
	message := locksql.SessionVerdict(locksql.TryLock, t.Shared, t.Keys)
	if o.Wait {
		message = locksql.WaitForSession(t.Shared, t.Keys, o.Limit)
	}
	granted, err = verdict.Ask(patient, execOn(c.conn), message)
	if err != nil && discardDead(c.conn) {
		c.closed = true
		return false, err
	}
	if c.locked = granted; !granted {
		// Some of several locks may be held, even after an error.
		clean := t.Abandon()
		if err == nil { // no transaction is open, and the server logs a ROLLBACK there
			clean = clean.WithoutRollback()
		}
		unclean := c.cleanUp(c.conn, func(ctx context.Context) error {
			_, err := send(ctx, c.conn, clean)
			return err
		})
		if err == nil && unclean != nil { // a wait would go on, on a session that is gone
			c.closed, err = true, unclean
		}
	}
	return granted, err
}

// unlockSession frees what lockSession took.
func (c *plainConn) unlockSession(conn *sql.Conn) {
	t := &c.job.transaction
	_ = c.cleanUp(conn, func(ctx context.Context) error { // the call does not wait for it any more
		ok, err := verdict.Ask(ctx, execOn(conn), locksql.SessionVerdict(locksql.Unlock, t.Shared, t.Keys))
		if err == nil && !ok {
			err = errors.New("the session did not hold the lock")
		}
		return err
	})
}

// cleanUp runs clean, and closes the connection if that fails, rather than give
// it back to the pool.
func (c *plainConn) cleanUp(conn *sql.Conn, clean func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), endingPatience)
	defer cancel()
	err := clean(ctx)
	if err != nil {
		_ = conn.Raw(closeDriver)
		pgsession.Forget(conn)
	}
	return err
}
