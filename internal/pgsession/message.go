package pgsession

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// Answer is what came back for a message: a result for each statement that has
// succeeded.
type Answer struct {
	Results    []Result
	Rows       [][][]byte // of all statements that ask for rows, in their order
	statements []locksql.Statement
	bound      int // how many statements have begun; 0 where all are one text
	cutShort   int // 1 + the index of the statement that was cancelled while it waited for a standby
}

// Result is the answer to one statement.
type Result struct {
	Tag   string
	Value string // the first of the last row, where that is what the statement is for
}

// Granted reports whether every statement that answers whether the lock is
// granted has answered that it is.
func (a Answer) Granted() bool {
	for i, s := range a.statements {
		if s.Answer == locksql.Granted && (i >= len(a.Results) || a.Results[i].Value != "t") {
			return false
		}
	}
	return len(a.Results) == len(a.statements) && !a.Standby()
}

// Standby reports whether the server has answered, to a statement that locks, that it
// is a hot standby. Nothing was locked by that statement.
func (a Answer) Standby() bool {
	for i, r := range a.Results {
		if s := a.statements[i]; (s.Answer == locksql.Granted || s.Answer == locksql.Locked) && r.Tag == "SELECT 0" {
			return true
		}
	}
	return false
}

// PID returns the process id of the server session, or "" if the message did
// not ask for it.
func (a Answer) PID() string {
	for i, s := range a.statements {
		if s.Answer == locksql.PID && i < len(a.Results) {
			return a.Results[i].Value
		}
	}
	return ""
}

// Fate is what is known of one statement of a message.
type Fate int

// The fates.
const (
	Executed    Fate = iota
	NotExecuted      // not sent, failed, or skipped
	Unknown
)

// Fate returns what is known of the i-th statement of a message that came back
// with a and err.
//
// The server answers in order, and says why it ends a session after its answers
// to what came before. So a session that was ended before the statement before
// the i-th was answered has not executed the i-th. Where the connection broke
// off, nothing is known; nor where a pooler says that its connection to the
// server did.
func (a Answer) Fate(i int, err error) Fate {
	if i < len(a.Results) && a.cutShort != i+1 {
		return Executed
	}
	var server *pgconn.PgError
	switch {
	case i < len(a.Results):
		return Unknown
	case notSent(err):
		return NotExecuted
	case errors.Is(err, errOutOfStep):
		return Unknown
	case errors.As(err, &server) && (!endsSession(server) || len(a.Results) < i && byServer(server)):
		return NotExecuted
	}
	return Unknown
}

// byServer reports whether PostgreSQL has written err, which then names the routine
// that did. What a pooler says on its own account, such as PgBouncer's "server
// conn crashed?", has no such field, and comes ahead of answers that it has lost.
func byServer(err *pgconn.PgError) bool { return err.Routine != "" }

// endsSession reports whether the server ended the session with err.
func endsSession(err *pgconn.PgError) bool {
	severity := err.SeverityUnlocalized
	if severity == "" {
		severity = err.Severity
	}
	return severity != "ERROR"
}

// notSent reports whether err shows that a message was not sent at all.
func notSent(err error) bool { return errors.Is(err, errNotSent) }

var (
	errNotSent   = errors.New("nothing was sent")
	errNoAnswer  = errors.New("the connection was lost before the answer")
	errOutOfStep = errors.New("the answer is not one to this message, and the connection was closed")
	errCutShort  = errors.New("its wait for a synchronous standby was cancelled, and a failover may lose it")
)

// Open sends m, which begins a transaction in place of one that may be open. If
// err is not nil or the lock is not granted, the transaction may be open.
//
// The message goes as prepared statements if it is made for that and pgx, too,
// prepares statements on the connection, that is in its default QueryExecMode:
// a program that uses a pooler which does not know prepared statements sets
// another. Where they are lost or in the way all the same (DEALLOCATE ALL, or
// such a pooler), the server says so before anything has happened, and the
// session does without them from then on.
func (s *Session) Open(ctx context.Context, p interrupt.Policy, m locksql.Message) (Answer, error) {
	s.follows = false
	if s.prepares && m.Prepare {
		a, err := s.sendPrepared(ctx, p, s.fresh(m))
		if s.Closed() || !wrongStatement(err) {
			s.follows = err == nil
			return a, err
		}
		s.prepares = false
	}
	return s.Send(ctx, p, s.fresh(m))
}

// Follow is Send for a message that ends what Open has begun. If Open has sent
// prepared statements, it has prepared these as well. Only the user of the
// transaction can have taken them away since: Follow is not to be called then.
func (s *Session) Follow(ctx context.Context, p interrupt.Policy, m locksql.Message) (Answer, error) {
	if s.follows && m.Prepare {
		return s.sendPrepared(ctx, p, m)
	}
	return s.Send(ctx, p, m)
}

// fresh returns m with a rollback before it, if a transaction is open.
func (s *Session) fresh(m locksql.Message) locksql.Message {
	if s.InTransaction() {
		return m.After(locksql.Rollback)
	}
	return m
}

// wrongStatement reports whether err says that a prepared statement is missing,
// or in the way.
func wrongStatement(err error) bool {
	const invalidStatementName, duplicatePreparedStatement = "26000", "42P05"
	code := lockerr.SQLState(err)
	return GoesOn(err) && (code == invalidStatementName || code == duplicatePreparedStatement)
}

// Send sends m as one text and reads the answer to its end.
func (s *Session) Send(ctx context.Context, p interrupt.Policy, m locksql.Message) (Answer, error) {
	defer interrupt.Start(ctx, s.pg, p).Stop()
	s.out.query.String = m.Text()
	s.pg.Frontend().SendQuery(&s.out.query)
	return s.exchange(m.Statements, nil)
}

// sendPrepared sends m as prepared statements, which are prepared in the very
// message that first needs them. What follows it is prepared first: a server
// session that has the statements of m then has what follows as well, also
// where another client of a pooler has prepared them. Only the rollback of an
// open transaction comes ahead: the server parses nothing else in one that has
// failed.
func (s *Session) sendPrepared(ctx context.Context, p interrupt.Policy, m locksql.Message) (Answer, error) {
	defer interrupt.Start(ctx, s.pg, p).Stop()
	var parsing []string
	rest := m.Statements
	if s.InTransaction() {
		parsing = s.writePrepared(rest[0], parsing)
		rest = rest[1:]
	}
	for _, st := range m.Follow {
		parsing = s.writeParse(st, parsing)
	}
	for _, st := range rest {
		parsing = s.writePrepared(st, parsing)
	}
	s.pg.Frontend().SendSync(&s.out.sync)
	return s.exchange(m.Statements, parsing)
}

// writeParse has st prepared, if it is not, and returns parsing with its name
// added then.
func (s *Session) writeParse(st locksql.Statement, parsing []string) []string {
	name := st.PreparedName()
	if s.names[name] {
		return parsing
	}
	s.pg.Frontend().SendParse(&pgproto3.Parse{Name: name, Query: st.SQL})
	return append(parsing, name)
}

// writePrepared writes st as a prepared statement, and returns parsing with its
// name added if it is to be prepared.
func (s *Session) writePrepared(st locksql.Statement, parsing []string) []string {
	parsing = s.writeParse(st, parsing)
	s.out.params, s.out.digits = s.out.params[:0], s.out.digits[:0]
	for _, p := range st.Params {
		start := len(s.out.digits)
		s.out.digits = strconv.AppendInt(s.out.digits, p.Number, 10)
		s.out.params = append(s.out.params, s.out.digits[start:])
	}
	s.writeBound(pgproto3.Bind{PreparedStatement: st.PreparedName(), Parameters: s.out.params})
	return parsing
}

func (s *Session) writeBound(bind pgproto3.Bind) {
	s.out.bind = bind
	s.pg.Frontend().SendBind(&s.out.bind)
	s.pg.Frontend().SendExecute(&s.out.execute)
}

// exchange sends what has been written and reads the answer to its end. parsing
// names the statements that are prepared on the way.
func (s *Session) exchange(statements []locksql.Statement, parsing []string) (Answer, error) {
	a := Answer{Results: make([]Result, 0, len(statements)), statements: statements}
	if err := s.flush(); err != nil {
		return a, err
	}
	return s.read(a, parsing)
}

// flush sends what has been written. If that fails, the session is discarded.
func (s *Session) flush() error {
	if s.pg.IsClosed() {
		return fmt.Errorf("%w: the connection is closed", errNotSent)
	}
	err := s.pg.Frontend().Flush()
	if err == nil {
		return nil
	}
	if pgconn.SafeToRetry(err) {
		return s.discarded(fmt.Errorf("%w: %w", errNotSent, err))
	}
	return s.discarded(fmt.Errorf("%w: %w", errNoAnswer, err))
}

// read reads the answer to one message, to its end, and checks that it is one
// to this message: as many results as statements, each with the tag that its
// statement has, unless one of them has failed.
func (s *Session) read(a Answer, parsing []string) (_ Answer, err error) {
	var result Result // of the next statement
	for {
		message, lost := s.pg.ReceiveMessage(context.Background())
		if lost != nil {
			return a, s.lost(err, lost)
		}
		switch m := message.(type) {
		case *pgproto3.ParseComplete:
			if len(parsing) > 0 {
				s.names[parsing[0]] = true
				parsing = parsing[1:]
			}
		case *pgproto3.BindComplete:
			a.bound++
		case *pgproto3.DataRow:
			a.take(&result, m.Values)
		case *pgproto3.CommandComplete:
			result.Tag = intern(m.CommandTag)
			if !a.add(result) {
				return a, s.outOfStep(result.Tag)
			}
			result = Result{}
		case *pgproto3.EmptyQueryResponse:
			if !a.add(Result{}) {
				return a, s.outOfStep("an empty statement")
			}
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.NoticeResponse:
			if m.Routine == "SyncRepWaitForLSN" && err == nil {
				a.cutShort, err = 1+len(a.Results), errCutShort
			}
		case *pgproto3.ReadyForQuery:
			if err == nil && len(a.Results) < len(a.statements) {
				return a, s.outOfStep("its end")
			}
			return a, err
		}
	}
}

// add adds a result, and reports whether it can be one of the next statement.
func (a *Answer) add(r Result) bool {
	i := len(a.Results)
	if i >= len(a.statements) || !answers(r.Tag, a.statements[i].Tag) {
		return false
	}
	a.Results = append(a.Results, r)
	return true
}

// take takes a row of the next statement, as far as it is wanted.
func (a *Answer) take(r *Result, values [][]byte) {
	i := len(a.Results)
	if i >= len(a.statements) {
		return
	}
	switch a.statements[i].Answer {
	case locksql.Rows:
		a.Rows = append(a.Rows, copied(values))
	case locksql.Granted, locksql.PID:
		if len(values) > 0 {
			r.Value = string(values[0])
		}
	}
}

// intern returns a command tag, without an allocation where it is a common one.
func intern(tag []byte) string {
	switch string(tag) {
	case "BEGIN":
		return "BEGIN"
	case "SELECT 1":
		return "SELECT 1"
	case "SAVEPOINT":
		return "SAVEPOINT"
	case "RELEASE":
		return "RELEASE"
	case "COMMIT":
		return "COMMIT"
	case "ROLLBACK":
		return "ROLLBACK"
	}
	return string(tag)
}

// answers reports whether tag is one of a statement that has want. The server
// answers a COMMIT of a failed transaction with ROLLBACK.
func answers(tag, want string) bool {
	return strings.HasPrefix(tag, want) || want == "COMMIT" && tag == "ROLLBACK"
}

func (s *Session) outOfStep(got string) error {
	return s.discarded(fmt.Errorf("%w: got %s", errOutOfStep, got))
}

// lost closes the connection, on which an answer was due, and returns why there
// is none: what the server said last, if it said something.
func (s *Session) lost(said, lost error) error {
	var server *pgconn.PgError
	switch {
	case said != nil:
		return s.discarded(said)
	case errors.As(lost, &server): // it ended the session
		return s.discarded(lost)
	}
	return s.discarded(fmt.Errorf("%w: %w", errNoAnswer, lost))
}

// discarded discards the session, and returns why.
func (s *Session) discarded(why error) error {
	if s.BeforeDiscard != nil {
		s.BeforeDiscard(why)
	}
	s.Discard()
	return why
}

func copied(values [][]byte) [][]byte {
	row := make([][]byte, len(values))
	for i, v := range values {
		if v != nil {
			row[i] = append(make([]byte, 0, len(v)), v...)
		}
	}
	return row
}

// GoesOn reports whether err is the server's word on a statement, and the
// session goes on.
func GoesOn(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && !endsSession(server)
}
