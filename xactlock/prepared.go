package xactlock

import (
	"context"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file asks for a lock, and waits for it, by prepared statements. That
// spares the server the parsing and planning of the same few statements again
// and again, which is a fifth of what an uncontended call costs it. They are
// prepared in the very message that first needs them on a connection.
//
// Only where pgx itself prepares statements, that is with its default
// QueryExecMode: who has a pooler that does not know them sets another. Where
// the statements are lost or in the way all the same (DEALLOCATE ALL, or such a
// pooler), the server says so before fn runs, and the connection does without
// them from then on.
//
// COMMIT is never among them: a statement that is missing then would be a
// transaction lost.

// prepared is what has been prepared on a connection, and room for what is being
// written on it. It is kept with the connection.
type prepared struct {
	mode      pgx.QueryExecMode
	off       bool                                    // opening messages go without
	names     map[string]string                       // by text
	described map[string]*pgconn.StatementDescription // of Execs, by text
	out       outgoing

	standbySince time.Time // when it was first refused for that
}

const preparedKey = "pgadvisory/xactlock"

// prepared returns what is kept with s.
func (s *session) prepared() *prepared {
	if s.kept != nil {
		return s.kept
	}
	data := s.pg.CustomData()
	p, ok := data[preparedKey].(*prepared)
	if !ok {
		mode := s.conn.Config().DefaultQueryExecMode
		p = &prepared{
			mode:      mode,
			off:       mode != pgx.QueryExecModeCacheStatement,
			names:     make(map[string]string),
			described: make(map[string]*pgconn.StatementDescription),
		}
		data[preparedKey] = p
	}
	s.kept = p
	return p
}

// nameOf returns the name of a prepared statement, which says what its text is:
// so it does not matter who has prepared it. It is the text, or where that is
// too long (NAMEDATALEN) a hash of it.
func nameOf(text string) string {
	const longest = 63
	if len(text) <= longest {
		return text
	}
	return "pgadvisory " + strconv.FormatUint(xxhash.Sum64String(text), 16)
}

// bound is a prepared statement with its parameters, as text.
type bound struct {
	text   string
	params [][]byte
}

// tryOn begins a transaction on s and asks for the call's locks.
func (c *call) tryOn(waitCtx context.Context, s *session) (answer, error) {
	if p := c.preparedOn(s); p != nil {
		a, err := s.sendPrepared(waitCtx, opening, p, []bound{
			{text: c.begin},
			{text: locksql.TryXactLockPrepared(c.opts.Shared, c.keys[0]), params: p.out.key(c.keys[0])},
			{text: savepoint},
		})
		if !s.unprepared(waitCtx, p, err) {
			return a, err
		}
	}
	return s.send(waitCtx, opening, c.tryMessage(c.keys))
}

// waitOn begins a transaction on s, in place of one that may be open from a try
// that was refused, and waits for the call's locks.
func (c *call) waitOn(waitCtx context.Context, s *session, open bool) (answer, error) {
	limit := untilDeadline(waitCtx)
	if p := c.preparedOn(s); p != nil {
		a, err := s.sendPrepared(waitCtx, waiting, p, c.waitPrepared(limit, open))
		if !s.unprepared(waitCtx, p, err) {
			a.granted = err == nil // the wait itself answers nothing
			return a, err
		}
		open = false
	}
	return s.send(waitCtx, waiting, c.waitMessage(c.keys, limit, open))
}

// waitPrepared is waitMessage in prepared statements.
func (c *call) waitPrepared(limit time.Duration, open bool) []bound {
	var all []bound
	if open {
		all = append(all, bound{text: "rollback"})
	}
	text, params := locksql.LockWithin(c.opts.Shared, c.keys[0], limit)
	lock := bound{text: text}
	for _, param := range params {
		lock.params = append(lock.params, []byte(param))
	}
	return append(all, bound{text: c.begin}, bound{text: locksql.SetAside}, lock, bound{text: locksql.PutBack}, bound{text: savepoint})
}

// preparedOn returns what is prepared on s, if the call can use it.
func (c *call) preparedOn(s *session) *prepared {
	if len(c.keys) > 1 || c.opts.handsOver() || c.opts.MaxHold > 0 {
		return nil
	}
	if p := s.prepared(); !p.off {
		return p
	}
	return nil
}

const noSuchStatement = "26000" // SQLSTATE invalid_sql_statement_name

// unprepared reports whether err says that statements are not what they should
// be. Then s is ready to go on without them.
func (s *session) unprepared(ctx context.Context, p *prepared, err error) bool {
	const duplicatePreparedStatement = "42P05"
	code := lockerr.SQLState(err)
	if s.pg.IsClosed() || code != noSuchStatement && code != duplicatePreparedStatement {
		return false
	}
	p.off = true
	s.rollback(ctx)
	return true
}

// sendPrepared sends prepared statements in one message and reads the answer.
func (s *session) sendPrepared(ctx context.Context, patience interrupt.Patience, p *prepared, all []bound) (answer, error) {
	s.watch.Begin(ctx, s.pg, patience)
	defer s.watch.End()
	for _, b := range all {
		name, known := p.names[b.text]
		if !known {
			name = nameOf(b.text)
			p.out.parse = pgproto3.Parse{Name: name, Query: b.text}
			s.pg.Frontend().SendParse(&p.out.parse)
		}
		p.out.bind = pgproto3.Bind{PreparedStatement: name, Parameters: b.params}
		s.pg.Frontend().SendBind(&p.out.bind)
		s.pg.Frontend().SendExecute(&p.out.execute)
	}
	s.pg.Frontend().SendSync(&p.out.sync)
	a, err := s.exchange()
	if err == nil {
		for _, b := range all {
			p.names[b.text] = nameOf(b.text)
		}
	}
	return a, err
}
