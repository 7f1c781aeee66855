package pgsession

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// ErrSimpleProtocol says that a statement is to be sent by the simple query
// protocol, which cannot tell the statements of one text apart. Nothing was
// sent.
var ErrSimpleProtocol = errors.New("the statement goes by the simple query protocol")

// maxParameters is how many the extended query protocol allows.
const maxParameters = 65535

// maxBytes is how long a statement's text may be, and its parameters together. pgx
// encodes no message of 1 GB, and its error looks like that of a connection that
// is dead, on which nothing was sent.
const maxBytes = 1<<30 - 1<<20

var errTooLong = errors.New("the statement or its parameters are too long: a message to PostgreSQL has less than 1 GB")

// maxStatements is how many statements of Exec stay prepared on one connection,
// or described.
const maxStatements = 128

// Query is a statement as the caller of Exec gave it.
type Query struct {
	SQL  string
	Args []any // as pgx takes them: a QueryExecMode or a QueryRewriter may come first
}

// bound is a Query that is ready to be sent.
type bound struct {
	text string // of the caller, rewritten: what it is known by
	name string // of the prepared statement; "" if the text is sent along
	bind *pgproto3.Bind
}

// tooLong reports whether the parameters do not fit into a message.
func (b *bound) tooLong() bool {
	n := 0
	for _, p := range b.bind.Parameters {
		n += len(p)
	}
	return n > maxBytes
}

// Exec sends, in one message, the statements before, the caller's statement and
// the statements after, and reads the answer to its end. The index is that of
// the caller's statement in the answer. The statement's parameters are encoded
// once, before anything is written, as pgx does it in its QueryExecMode.
//
// If err is of the caller's statement or its parameters and nothing was sent,
// sent is false. So it is where waitCtx has ended by the time the statement is
// prepared: the server may have been asked to cancel it before it was there.
func (s *Session) Exec(ctx, waitCtx context.Context, p interrupt.Policy, before locksql.Message, q Query, after locksql.Message) (a Answer, index int, sent bool, err error) {
	if mode, _, _ := s.mode(q.Args); mode == pgx.QueryExecModeSimpleProtocol {
		return a, 0, false, ErrSimpleProtocol
	}
	if s.InTransaction() {
		s.Rollback(ctx) // or COMMIT would be of what a caller left open in the pool
	}
	ctx, end := s.Trace(ctx, q)
	defer func() { end(a.tag(index), err) }()
	defer interrupt.Start(ctx, s.pg, p).Stop()
	index = len(before.Statements)
	for range 1 + len(before.Statements) + 1 { // each statement can be missing once
		var b bound
		if b, err = s.bind(context.WithoutCancel(ctx), q); err != nil {
			if s.Closed() {
				err = fmt.Errorf("%w: %w", errNotSent, err)
			}
			return a, index, false, err
		}
		if err = waitCtx.Err(); err != nil {
			return a, index, false, err
		}
		if b.tooLong() {
			return a, index, false, errTooLong
		}
		a, err = s.sendBound(before, b, after)
		if !s.forgetStale(a, index, b, err) {
			return a, index, true, err
		}
	}
	return a, index, true, err
}

// sendBound sends b among the other statements.
func (s *Session) sendBound(before locksql.Message, b bound, after locksql.Message) (Answer, error) {
	var parsing []string
	for _, st := range before.Statements {
		if s.prepares {
			parsing = s.writePrepared(st, parsing)
		} else {
			s.writeText(st)
		}
	}
	if b.name == "" {
		s.pg.Frontend().SendParse(&pgproto3.Parse{Query: b.text})
	}
	s.writeBound(*b.bind)
	for _, st := range after.Statements {
		s.writeText(st) // a statement that is missing here would be a transaction lost
	}
	s.pg.Frontend().SendSync(&s.out.sync)
	statements := make([]locksql.Statement, 0, len(before.Statements)+1+len(after.Statements))
	statements = append(statements, before.Statements...)
	statements = append(statements, locksql.Statement{})
	statements = append(statements, after.Statements...)
	return s.exchange(statements, parsing)
}

func (s *Session) writeText(st locksql.Statement) {
	s.pg.Frontend().SendParse(&pgproto3.Parse{Query: st.Text()})
	s.writeBound(pgproto3.Bind{})
}

// bind makes q ready to be sent, which takes a message of its own where the
// types of its parameters are not known yet.
func (s *Session) bind(ctx context.Context, q Query) (bound, error) {
	sql, args, mode, err := s.options(ctx, q)
	switch {
	case err != nil:
		return bound{}, err
	case len(args) > maxParameters:
		return bound{}, fmt.Errorf("the statement has %d parameters, and PostgreSQL takes %d at most", len(args), maxParameters)
	case len(sql) > maxBytes:
		return bound{}, errTooLong
	case mode == pgx.QueryExecModeExec:
		return s.encode(bound{text: sql}, nil, args)
	}
	known := s.statements[sql] != nil
	d, err := s.describe(mode, sql)
	if err != nil {
		return bound{}, err
	}
	b, err := s.encode(bound{text: sql, name: d.name}, d.StatementDescription, args)
	if err != nil && known { // perhaps a table has changed since
		s.forget(sql)
		return s.bind(ctx, q)
	}
	return b, err
}

// options applies the options that come first among pgx's arguments.
func (s *Session) options(ctx context.Context, q Query) (sql string, args []any, mode pgx.QueryExecMode, err error) {
	mode, rewriter, args := s.mode(q.Args)
	if rewriter == nil {
		return q.SQL, args, mode, nil
	}
	if sql, args, err = rewriter.RewriteQuery(ctx, s.conn, q.SQL, args); err != nil {
		err = fmt.Errorf("rewrite query failed: %w", err)
	}
	return sql, args, mode, err
}

// mode returns the options, and the arguments that follow them.
func (s *Session) mode(args []any) (pgx.QueryExecMode, pgx.QueryRewriter, []any) {
	mode := s.defaultMode
	var rewriter pgx.QueryRewriter
	for i, arg := range args {
		switch arg := arg.(type) {
		case pgx.QueryExecMode:
			mode = arg
		case pgx.QueryRewriter:
			rewriter = arg
		default:
			return mode, rewriter, args[i:]
		}
	}
	return mode, rewriter, nil
}

func (s *Session) encode(b bound, sd *pgconn.StatementDescription, args []any) (bound, error) {
	var encoded pgx.ExtendedQueryBuilder
	if err := encoded.Build(s.conn.TypeMap(), sd, args); err != nil {
		return b, err
	}
	b.bind = &pgproto3.Bind{
		PreparedStatement:    b.name,
		Parameters:           encoded.ParamValues,
		ParameterFormatCodes: encoded.ParamFormats,
		ResultFormatCodes:    encoded.ResultFormats,
	}
	return b, nil
}

// describe returns what the server says of a statement, and has it prepared
// where mode says so.
func (s *Session) describe(mode pgx.QueryExecMode, sql string) (*description, error) {
	if d := s.statements[sql]; d != nil {
		return d, nil
	}
	name := ""
	if mode == pgx.QueryExecModeCacheStatement && s.prepares {
		name = nameOfCallers(sql)
	}
	sd, err := s.prepare(name, sql)
	if name != "" && wrongStatement(err) && !s.Closed() { // behind a pooler: another client has prepared it
		s.prepares, name = false, ""
		sd, err = s.prepare(name, sql)
	}
	if err != nil {
		return nil, err
	}
	d := &description{name, sd}
	if mode == pgx.QueryExecModeDescribeExec {
		return d, nil
	}
	s.statements[sql] = d
	for other := range s.statements { // whichever comes first
		if len(s.statements) > maxStatements && other != sql {
			s.forget(other)
		}
	}
	return d, nil
}

// nameOfCallers returns the name of a caller's prepared statement, which says what its
// text is. Behind a pooler that does not know prepared statements, one that another
// client has prepared can be in its place: it is the same one then. No two texts have
// one name, also where an attacker writes them.
func nameOfCallers(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "pgadvisory_" + hex.EncodeToString(sum[:20])
}

// forget forgets the statement of an Exec, and nothing else that is prepared on
// the connection.
func (s *Session) forget(sql string) {
	d := s.statements[sql]
	delete(s.statements, sql)
	if d != nil && d.name != "" && s.Usable() {
		// An error leaves a statement without a user, or a closed connection.
		_ = s.deallocate(d.name)
	}
}

// forgetStale forgets what is prepared and, by the error that it met, is not
// what it was. It reports whether to send the message once more: a statement
// was missing, so nothing is committed. One that was bound has begun: the SQLSTATE is
// what it has raised.
func (s *Session) forgetStale(a Answer, index int, b bound, err error) (again bool) {
	if !GoesOn(err) || s.Closed() {
		return false
	}
	if s.InTransaction() {
		s.Rollback(context.Background())
	}
	switch failed := len(a.Results); {
	case s.Closed():
		return false
	case failed < index && wrongStatement(err):
		s.prepares = false
		return true
	case failed == index && s.statements[b.text] != nil && mayBeStale(lockerr.SQLState(err)):
		s.forget(b.text)
		return a.bound <= index && wrongStatement(err) && !s.Closed()
	}
	return false
}

// mayBeStale reports whether a statement that failed with the SQLSTATE may
// succeed once it is prepared or described anew. Those that most often fail, for what is
// in the tables, are not among them: class 23, of constraints, first of all.
func mayBeStale(code string) bool {
	switch code[:min(2, len(code))] {
	case "08", // protocol violation: the result has not the columns that it had
		"XX", // internal error: "cache lookup failed" for a type that was dropped
		"26", // invalid SQL statement name: it was deallocated
		"0A", // feature not supported: "cached plan must not change result type"
		"22", // data exception: a value that is not of the type that the parameter had
		"42": // syntax error or access rule violation: types that do not fit any more
		return true
	}
	return false
}

// Traces reports whether pgx's tracer is told of anything.
func (s *Session) Traces() bool { return s.tracer != nil }

// Trace tells pgx's tracer, if there is one, that q begins. The function it returns
// tells it of the end.
func (s *Session) Trace(ctx context.Context, q Query) (context.Context, func(tag string, err error)) {
	if s.tracer == nil {
		return ctx, func(string, error) {}
	}
	ctx = s.tracer.TraceQueryStart(ctx, s.conn, pgx.TraceQueryStartData{SQL: q.SQL, Args: q.Args})
	return ctx, func(tag string, err error) {
		s.tracer.TraceQueryEnd(ctx, s.conn, pgx.TraceQueryEndData{CommandTag: pgconn.NewCommandTag(tag), Err: err})
	}
}

// tag returns the command tag of the i-th statement, or "" if it has none.
func (a Answer) tag(i int) string {
	if i < len(a.Results) {
		return a.Results[i].Tag
	}
	return ""
}
