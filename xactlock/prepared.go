package xactlock

import (
	"context"
	"encoding/binary"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file asks for a lock by prepared statements. That spares the server the
// parsing and planning of the same few statements again and again, which is a
// fifth of what an uncontended call costs it. They are prepared in the very
// message that first needs them on a connection.
//
// Only where pgx itself prepares statements, that is with its default
// QueryExecMode: who has a pooler that does not know them sets another. Where
// the statements are lost or in the way all the same (DEALLOCATE ALL, or such a
// pooler), the server says so before anything has happened, and the connection
// does without them from then on.
//
// COMMIT is never among them: a statement that is missing then would be a
// transaction lost.

// prepared is what has been prepared on a connection, and kept with it.
type prepared struct {
	mode      pgx.QueryExecMode
	off       bool                                    // the try goes without
	known     map[string]bool                         // by name, which is the statement's text: so it does not matter who prepared it
	described map[string]*pgconn.StatementDescription // of Execs, by text
}

const preparedKey = "pgadvisory/xactlock"

// prepared returns what is prepared on s.
func (s *session) prepared() *prepared {
	data := s.pg.CustomData()
	p, ok := data[preparedKey].(*prepared)
	if !ok {
		mode := s.conn.Config().DefaultQueryExecMode
		p = &prepared{
			mode:      mode,
			off:       mode != pgx.QueryExecModeCacheStatement,
			known:     make(map[string]bool),
			described: make(map[string]*pgconn.StatementDescription),
		}
		data[preparedKey] = p
	}
	return p
}

// tryOn begins a transaction on s and asks for the call's locks.
func (c *call) tryOn(waitCtx context.Context, s *session) (answer, error) {
	if len(c.keys) == 1 && !c.opts.handsOver() && c.opts.MaxHold == 0 {
		if p := s.prepared(); !p.off {
			a, err := c.tryPrepared(waitCtx, s, p)
			if !isNotPrepared(err) || s.pg.IsClosed() {
				return a, err
			}
			p.off = true
			s.rollback(waitCtx)
		}
	}
	return s.send(waitCtx, opening, c.tryMessage(c.keys))
}

const noSuchStatement = "26000" // SQLSTATE invalid_sql_statement_name

func isNotPrepared(err error) bool {
	const duplicatePreparedStatement = "42P05"
	code := lockerr.SQLState(err)
	return code == noSuchStatement || code == duplicatePreparedStatement
}

// tryPrepared is tryMessage in prepared statements.
func (c *call) tryPrepared(waitCtx context.Context, s *session, p *prepared) (answer, error) {
	s.watch.Begin(waitCtx, s.pg, opening)
	defer s.watch.End()
	texts := [...]string{c.begin, locksql.TryXactLockPrepared(c.opts.Shared, c.keys[0]), savepoint}
	for i, text := range texts {
		if !p.known[text] {
			s.out.parse = pgproto3.Parse{Name: text, Query: text}
			s.pg.Frontend().SendParse(&s.out.parse)
		}
		s.out.bind = pgproto3.Bind{PreparedStatement: text}
		if i == 1 {
			s.bindKey(c.keys[0])
		}
		s.pg.Frontend().SendBind(&s.out.bind)
		s.pg.Frontend().SendExecute(&s.out.execute)
	}
	s.pg.Frontend().SendSync(&s.out.sync)
	a, err := s.exchange()
	if err == nil {
		for _, text := range texts {
			p.known[text] = true
		}
	}
	return a, err
}

// bindKey makes key the parameters of what is bound.
func (s *session) bindKey(key hashkey.Key) {
	number := binary.BigEndian.AppendUint64(s.out.number[:0], uint64(key.Int64()))
	s.out.values = [2][]byte{number}
	params := s.out.values[:1]
	if _, _, pair := key.Pair(); pair {
		s.out.values = [2][]byte{number[:4], number[4:]}
		params = s.out.values[:]
	}
	s.out.bind.Parameters, s.out.bind.ParameterFormatCodes = params, binaryFormat
}

var binaryFormat = []int16{1} // of all parameters
