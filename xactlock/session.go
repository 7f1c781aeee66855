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
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file is the fast path: one call on a connection of pgx.

// session is a connection of the pool, while one call has it.
type session struct {
	conn  driver.Conn // as the pool gave it, for fn's statements
	pg    *pgconn.PgConn
	stray bool // a session lock may be left
}

// unwrap returns the session behind driverConn, or nil if that is not pgx's.
// Instrumented drivers wrap connections; the better ones offer a way back.
func unwrap(driverConn any) *session {
	conn, ok := driverConn.(driver.Conn)
	if !ok {
		return nil
	}
	for inner := conn; ; {
		switch c := inner.(type) {
		case *stdlib.Conn:
			return &session{conn: conn, pg: c.Conn().PgConn()}
		case interface{ Raw() driver.Conn }:
			inner = c.Raw()
		default:
			return nil
		}
	}
}

// reusable reports whether nothing of the call is left on the connection.
func (s *session) reusable() bool {
	return !s.stray && !s.pg.IsClosed() && s.pg.TxStatus() == 'I'
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.pg.Close(ctx) // the server frees what is on it either way
}

// send sends message and reads the answer to its end: the last command's tag,
// and whether every boolean that came back is true.
func (s *session) send(ctx context.Context, message string, p patience) (tag pgconn.CommandTag, all bool, err error) {
	over := interrupt(ctx, s.pg, p)
	defer over()
	all = true
	results := s.pg.Exec(context.Background(), message)
	for results.NextResult() {
		result := results.ResultReader()
		for result.NextRow() {
			all = all && allTrue(result)
		}
		if t, err := result.Close(); err == nil {
			tag = t
		}
	}
	return tag, all, results.Close()
}

// allTrue reports whether every boolean column of result's row is true.
func allTrue(result *pgconn.ResultReader) bool {
	const boolOID = 16
	values := result.Values()
	for i, field := range result.FieldDescriptions() {
		if field.DataTypeOID == boolOID && string(values[i]) != "t" {
			return false
		}
	}
	return true
}

// onSession asks for the lock on s, waits for it there where the options say
// so, and runs fn.
func (c *call) onSession(ctx, waitCtx context.Context, s *session) (again bool, err error) {
	if err := pretends(s.pg); err != nil {
		return false, fmt.Errorf("%w: %s", err, lockerr.Keys(c.keys))
	}
	_, granted, err := s.send(waitCtx, c.tryMessage(c.keys), opening)
	if err != nil && s.pg.IsClosed() && waitCtx.Err() == nil && c.dead < maxDeadConns {
		c.dead++ // it died in the pool, and has taken any lock with it
		return true, nil
	}
	if err == nil && !granted && c.waits() {
		c.contended = true
		granted, err = c.waitOnServer(waitCtx, s)
	}
	if err == nil && granted {
		return false, c.holdSession(ctx, s)
	}
	c.abandon(waitCtx, s)
	if err != nil {
		return false, c.notAcquired(waitCtx, err)
	}
	return false, errRefused
}

// waitOnServer queues for the lock on s, which has refused a try.
func (c *call) waitOnServer(waitCtx context.Context, s *session) (granted bool, err error) {
	_, granted, err = s.send(waitCtx, c.waitMessage(c.keys, untilDeadline(waitCtx)), waiting)
	if err == nil && !granted {
		err = errors.New("xactlock: the lock was lost between two statements of one message")
	}
	return granted, err
}

// abandon gives the session back as it was before the call. If that fails, it
// is not given back at all.
func (c *call) abandon(waitCtx context.Context, s *session) {
	if s.pg.IsClosed() {
		return
	}
	if _, _, err := s.send(waitCtx, c.abandonMessage(c.keys), ending); err != nil {
		s.stray = true
	}
}

// holdSession runs fn in the transaction that is open on s and ends it.
func (c *call) holdSession(ctx context.Context, s *session) error {
	a := &adopted{Conn: s.conn, pg: s.pg}
	tx, err := adopt(a)
	if err != nil {
		c.rollback(ctx, s)
		return fmt.Errorf("xactlock: %s: %w", lockerr.Keys(c.keys), err)
	}
	err = c.hold(ctx, tx, func() {
		_ = tx.Rollback()
		c.rollback(ctx, s)
	})
	// Told apart before the next line, which is WithTx's own Rollback. That
	// only ends the *sql.Tx: statements that fn left running elsewhere are
	// waited for, its rows are closed, and nothing can use it from now on.
	ended := a.ended.Load()
	_ = tx.Rollback()
	if err == nil {
		err = c.whyNotCommit(ctx, s, a, ended)
	}
	if err != nil {
		c.rollback(ctx, s)
		return err
	}
	return c.commit(ctx, s)
}

// whyNotCommit returns what fn, which returned nil, has done to the
// transaction that keeps it from being committed, or nil.
func (c *call) whyNotCommit(ctx context.Context, s *session, a *adopted, ended bool) error {
	switch {
	case s.pg.IsClosed():
		return fmt.Errorf("xactlock: %s: the connection was lost inside fn, and nothing is committed", lockerr.Keys(c.keys))
	case s.pg.TxStatus() == 'I':
		return c.txEnded()
	case ended:
		return fmt.Errorf("%w: %s", ErrTxEnded, lockerr.Keys(c.keys))
	case s.pg.TxStatus() == 'E':
		return c.swallowed()
	case a.suspect.Load():
		return c.stillHeld(ctx, s)
	}
	return nil
}

// stillHeld asks the server for the locks themselves, after SQL text that may
// have ended the transaction and begun another.
func (c *call) stillHeld(ctx context.Context, s *session) error {
	var m locksql.Message
	m.Held(c.keys)
	_, all, err := s.send(ctx, m.String(), ending)
	if err != nil {
		return fmt.Errorf("xactlock: %s: %w", lockerr.Keys(c.keys), err)
	}
	if !all {
		return c.txEnded()
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
func (c *call) rollback(ctx context.Context, s *session) {
	if !s.pg.IsClosed() && s.pg.TxStatus() != 'I' {
		_, _, _ = s.send(ctx, "rollback", ending)
	}
}

func (c *call) commit(ctx context.Context, s *session) error {
	tag, _, err := s.send(ctx, "commit", ending)
	switch {
	case err == nil && tag.String() == "COMMIT":
		c.outcome = Committed
		return nil
	case err == nil:
		return c.swallowed()
	case !s.pg.IsClosed() || neverCommitted(err):
		c.outcome = Failed
		return fmt.Errorf("xactlock: %s: commit: %w", lockerr.Keys(c.keys), err)
	}
	c.outcome = Unknown
	return fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(c.keys), err)
}

// neverCommitted reports whether err, which broke the connection, shows that
// the server did not see COMMIT: it was not sent, or the server had ended the
// session because it waited too long for one.
func neverCommitted(err error) bool {
	const idleInTransactionSessionTimeout = "25P03"
	return pgconn.SafeToRetry(err) || lockerr.SQLState(err) == idleInTransactionSessionTimeout
}

// pretends returns why the locks of the server behind pg exclude nobody, as
// far as it has said so itself when the session began.
func pretends(pg *pgconn.PgConn) error {
	switch {
	case pg.ParameterStatus("crdb_version") != "":
		return ErrUnsupportedServer
	case pg.ParameterStatus("in_hot_standby") == "on":
		return ErrStandby
	}
	return nil
}
