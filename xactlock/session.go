package xactlock

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// This file is the fast path: one call on a connection of pgx.

// session is a connection of the pool, while one call has it.
type session struct {
	driver driver.Conn // as the pool gave it, for fn's statements
	conn   *pgx.Conn
	pg     *pgconn.PgConn
	stray  bool // a session lock may be left
	watch  interrupt.Watch
	kept   *prepared // what is kept with the connection, once it was asked for
}

// unwrap makes s the session behind driverConn, if that is pgx's. Instrumented
// drivers wrap connections; the better ones offer a way back.
func (s *session) unwrap(driverConn any) bool {
	conn, ok := driverConn.(driver.Conn)
	if !ok {
		return false
	}
	for inner := conn; ; {
		switch c := inner.(type) {
		case *stdlib.Conn:
			s.driver, s.conn, s.pg, s.stray, s.kept = conn, c.Conn(), c.Conn().PgConn(), false, nil
			return true
		case interface{ Raw() driver.Conn }:
			inner = c.Raw()
		default:
			return false
		}
	}
}

// giveBack is for Conn.Raw to return: the connection goes back to the pool if
// nothing of the call is left on it, and is closed otherwise. ErrBadConn alone
// would be too little for that: a *sql.DB over a pgxpool only gives the
// connection back to the pgxpool then.
func (s *session) giveBack() error {
	if !s.stray && !s.pg.IsClosed() && s.pg.TxStatus() == 'I' {
		return nil
	}
	s.close()
	return driver.ErrBadConn
}

func (s *session) close() { interrupt.CloseNow(s.pg) }

// onSession asks for the lock on s, waits for it there where the options say
// so, and runs fn.
func (c *call) onSession(ctx, waitCtx context.Context, s *session) (again bool, err error) {
	transactions.calls.Add(1)
	defer transactions.calls.Add(-1)
	if err := s.pretends(); err != nil {
		return false, fmt.Errorf("%w: %s", err, lockerr.Keys(c.keys))
	}
	if c.opts.Wait == 0 { // ctx and waitCtx are one
		s.watch.Keep(ctx, s.pg)
		defer s.watch.Release()
	}
	var a answer
	if c.direct {
		a, err = c.waitOnServer(waitCtx, s, false)
	} else {
		a, err = c.tryOn(waitCtx, s)
	}
	if err != nil && s.pg.IsClosed() && c.diedInPool(waitCtx) {
		return true, nil
	}
	if err == nil && !a.granted && !c.direct && c.waitsHere() {
		a, err = c.waitOnServer(waitCtx, s, true)
	}
	if err == nil && a.granted && !s.pg.IsClosed() {
		return false, c.holdSession(ctx, s)
	}
	c.abandon(waitCtx, s)
	if err != nil || a.granted { // ctx ended just when the lock was granted
		return false, c.notAcquired(waitCtx, err)
	}
	return false, errRefused
}

// waitOnServer queues for the lock on s, where a try that was refused may have
// left a transaction open.
func (c *call) waitOnServer(waitCtx context.Context, s *session, open bool) (answer, error) {
	c.contended = true
	a, err := c.waitOn(waitCtx, s, open)
	if err == nil && !a.granted {
		err = errors.New("the lock was lost between two statements of one message")
	}
	return a, err
}

// abandon gives the session back as it was before the call. If that fails, it
// is not given back at all.
func (c *call) abandon(waitCtx context.Context, s *session) {
	if s.pg.IsClosed() {
		return
	}
	if _, err := s.send(waitCtx, ending, c.abandonMessage(c.keys)); err != nil {
		s.stray = true
	}
}

// holdSession runs fn in the transaction that is open on s and ends it.
func (c *call) holdSession(ctx context.Context, s *session) error {
	t := transactions.take()
	t.adopted.adopt(s)
	err := c.hold(ctx, t.Tx, func() {
		transactions.end(t)
		s.rollback(ctx)
	})
	ended := t.adopted.ended.Load() // before the next line, which may set it as well
	transactions.end(t)
	if err == nil {
		err = c.whyNotCommit(s, ended)
	}
	if err != nil {
		s.rollback(ctx)
		return err
	}
	return c.commit(ctx, s)
}

// whyNotCommit returns what fn, which returned nil, has done to the
// transaction that keeps it from being committed, or nil.
func (c *call) whyNotCommit(s *session, ended bool) error {
	switch {
	case s.pg.IsClosed():
		return fmt.Errorf("xactlock: %s: the connection was lost inside fn, and nothing is committed", lockerr.Keys(c.keys))
	case s.pg.TxStatus() == 'I':
		return c.txEnded()
	case ended:
		return fmt.Errorf("%w: %s", ErrTxEnded, lockerr.Keys(c.keys))
	case s.pg.TxStatus() == 'E':
		return c.swallowed()
	}
	return nil
}

// txEnded is the error after fn has ended the transaction by a way of its own,
// with whatever that did.
func (c *call) txEnded() error {
	c.outcome = Unknown
	return fmt.Errorf("%w: %s", ErrTxEnded, lockerr.Keys(c.keys))
}

func (c *call) swallowed() error {
	return fmt.Errorf("xactlock: %s: a statement failed and fn returned nil: %w", lockerr.Keys(c.keys), pgx.ErrTxCommitRollback)
}

// rollback ends the transaction, if it is open. An error means that the
// connection is broken: it is then not reusable, and the server rolls back.
func (s *session) rollback(ctx context.Context) {
	if !s.pg.IsClosed() && s.pg.TxStatus() != 'I' {
		_, _ = s.send(ctx, ending, "rollback")
	}
}

func (c *call) commit(ctx context.Context, s *session) error {
	var a answer
	var err error
	if commit, after := c.commitMessages(c.keys); after == "" {
		a, err = s.send(ctx, ending, commit)
	} else {
		a, err = s.sendBoth(ctx, ending, commit, after)
	}
	if a.committed {
		s.stray = s.stray || err != nil
		c.outcome = Committed
		return nil
	}
	if !s.pg.IsClosed() && s.pg.TxStatus() != 'I' {
		c.abandon(ctx, s)
	}
	switch {
	case err == nil:
		return c.swallowed()
	case noSuchSavepoint(err):
		return c.txEnded()
	case !s.pg.IsClosed() || neverCommitted(err):
		c.outcome = Failed
		return fmt.Errorf("xactlock: %s: commit: %w", lockerr.Keys(c.keys), err)
	}
	c.outcome = Unknown
	return fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(c.keys), err)
}

// noSuchSavepoint reports whether err is the answer to a RELEASE that is not
// in the transaction that WithTx began: there is no such savepoint, or no
// transaction.
func noSuchSavepoint(err error) bool {
	const invalidSavepointSpecification, noActiveSQLTransaction = "3B001", "25P01"
	code := lockerr.SQLState(err)
	return code == invalidSavepointSpecification || code == noActiveSQLTransaction
}

// neverCommitted reports whether err, which broke the connection, shows that
// the server did not see COMMIT: it was not sent, or the server had ended the
// session because it waited too long for one.
func neverCommitted(err error) bool {
	const idleInTransactionSessionTimeout = "25P03"
	return notSent(err) || lockerr.SQLState(err) == idleInTransactionSessionTimeout
}

// notSent reports whether err shows that a message was not sent at all.
//
// ErrConnClosed shows no such thing, though pgx says that it is safe to retry
// after it: it is also what pgx returns when the connection breaks off before
// the answer.
func notSent(err error) bool {
	return pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed)
}

// oldNews is how long a connection may have called its server a hot standby
// before it is asked by connecting anew.
const oldNews = time.Second

// pretends returns why the locks of the server behind s exclude nobody, as far
// as it has said so itself: when the session began, or with a later answer.
//
// It does not say that it has been promoted to a client that sends nothing, and
// who is refused sends nothing. So the connection is closed if it says the same
// for long, and the next call connects.
func (s *session) pretends() error {
	switch {
	case s.pg.ParameterStatus("crdb_version") != "":
		return ErrUnsupportedServer
	case s.pg.ParameterStatus("in_hot_standby") == "on":
		p := s.prepared()
		if p.standbySince.IsZero() {
			p.standbySince = time.Now()
		}
		if time.Since(p.standbySince) > oldNews {
			s.close()
		}
		return ErrStandby
	}
	return nil
}
