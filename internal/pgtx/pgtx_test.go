package pgtx_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgfake"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

var (
	done    = pgfake.Done
	row     = pgfake.Row
	ready   = pgfake.Ready
	failure = pgfake.Failure
)

type messages = []pgproto3.BackendMessage

// server answers one message after the other, and then hangs up.
type server struct {
	answers []messages
	asked   []string // the texts that came; "" where statements were prepared
	last    func()   // is called before the last of the answers, if it is not nil
}

func (s *server) answer(m pgproto3.FrontendMessage) []pgproto3.BackendMessage {
	text := ""
	if q, ok := m.(*pgproto3.Query); ok {
		text = q.String
	}
	s.asked = append(s.asked, text)
	if len(s.answers) == 0 {
		return nil
	}
	next := s.answers[0]
	s.answers = s.answers[1:]
	if len(s.answers) == 0 && s.last != nil {
		s.last()
	}
	return next
}

// begin returns a transaction at the level on the server.
func begin(t *testing.T, s *server, level string, parameters ...pgproto3.ParameterStatus) *pgtx.Tx {
	t.Helper()
	return &pgtx.Tx{
		Package:     "pgtx_test",
		Session:     pgsession.Of(pgfake.Connect(t, s.answer, parameters...)),
		Transaction: &locksql.Transaction{Keys: []hashkey.Key{hashkey.Name("k")}, Level: level},
	}
}

// opened answers the opening message at READ COMMITTED.
func opened(granted string) messages {
	return messages{done("BEGIN"), row(granted), done("SELECT 1"), done("SAVEPOINT"), ready('T')}
}

var committed = messages{done("RELEASE"), done("COMMIT"), ready('I')}

// What comes of an opening message, and what it leaves on the session.
func TestOpen(t *testing.T) {
	for name, test := range map[string]struct {
		answers  []messages
		wait     bool
		granted  bool
		code     string // the SQLSTATE of the error
		messages int
		closed   bool
	}{
		"granted":               {answers: []messages{opened("t")}, granted: true, messages: 1},
		"refused":               {answers: []messages{opened("f")}, messages: 1},
		"fails":                 {answers: []messages{{failure("ERROR", "53200"), ready('E')}, {done("ROLLBACK"), ready('I')}}, code: "53200", messages: 2},
		"cannot be abandoned":   {answers: []messages{{failure("ERROR", "53200"), ready('E')}, {failure("ERROR", "XX000"), ready('E')}}, code: "53200", messages: 2, closed: true},
		"a slice is over":       {answers: []messages{{done("BEGIN"), done("SELECT 1"), failure("ERROR", "55P03"), ready('E')}}, wait: true, messages: 1},
		"a try has no slice":    {answers: []messages{{failure("ERROR", "55P03"), ready('E')}, {done("ROLLBACK"), ready('I')}}, code: "55P03", messages: 2},
		"terminated":            {answers: []messages{{failure("FATAL", "57P01")}}, wait: true, code: "57P01", messages: 1, closed: true},
		"granted, then the end": {answers: []messages{append(opened("t")[:4:4], failure("FATAL", "57P01"))}, code: "57P01", messages: 1, closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{answers: test.answers}
			tx := begin(t, s, locksql.ReadCommitted)
			granted, err := tx.Open(t.Context(), acquire.Opening{Wait: test.wait, Limit: time.Second})
			if granted != test.granted || lockerr.SQLState(err) != test.code || (err == nil) != (test.code == "") {
				t.Errorf("granted %t, %v", granted, err)
			}
			if len(s.asked) != test.messages || tx.Session.Closed() != test.closed {
				t.Errorf("%d messages, closed %t", len(s.asked), tx.Session.Closed())
			}
		})
	}
}

// A server whose locks are not PostgreSQL's is refused without a message.
func TestPretender(t *testing.T) {
	s := new(server)
	tx := begin(t, s, locksql.ReadCommitted, pgproto3.ParameterStatus{Name: "crdb_version", Value: "CockroachDB"})
	if granted, err := tx.Open(t.Context(), acquire.Opening{}); granted || err != lockerr.ErrUnsupportedServer {
		t.Errorf("granted %t, %v", granted, err)
	}
	if e := tx.Exec(t.Context(), t.Context(), pgsession.Query{SQL: "select 1"}, 0); !errors.Is(e.Err, lockerr.ErrUnsupportedServer) || e.Outcome != txlock.Failed {
		t.Errorf("Exec: got %+v", e)
	}
	if len(s.asked) > 0 {
		t.Errorf("it was asked %q", s.asked)
	}
}

// A hot standby says so instead of locking, whatever becomes of the rest of the
// message, and whatever it, or a pooler, has said when the session began.
func TestHotStandby(t *testing.T) {
	rolledBack := messages{done("ROLLBACK"), ready('I')}
	described := messages{&pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, ready('I')}
	said := pgproto3.ParameterStatus{Name: "in_hot_standby", Value: "off"}
	for name, test := range map[string]struct {
		level   string
		wait    bool
		answers []messages
	}{
		"a try":        {locksql.ReadCommitted, false, []messages{{done("BEGIN"), done("SELECT 0"), done("SAVEPOINT"), ready('T')}, rolledBack}},
		"a wait":       {locksql.ReadCommitted, true, []messages{{done("BEGIN"), done("SELECT 1"), done("SELECT 0"), done("SELECT 1"), done("SAVEPOINT"), ready('T')}, rolledBack}},
		"SERIALIZABLE": {locksql.Serializable, false, []messages{{done("BEGIN"), done("SELECT 0"), done("COMMIT"), failure("ERROR", "0A000"), ready('E')}, {done("ROLLBACK"), done("SELECT 1"), ready('I')}}},
	} {
		s := &server{answers: test.answers}
		tx := begin(t, s, test.level, said)
		if granted, err := tx.Open(t.Context(), acquire.Opening{Wait: test.wait, Limit: time.Second}); granted || err != lockerr.ErrStandby {
			t.Errorf("%s: granted %t, %v", name, granted, err)
		}
		if len(s.asked) != 2 || tx.Session.Closed() {
			t.Errorf("%s: %d messages, closed %t", name, len(s.asked), tx.Session.Closed())
		}
	}
	for name, last := range map[string]messages{
		"a statement that reads":  {done("BEGIN"), done("SELECT 0"), done("SELECT 1"), done("COMMIT"), ready('I')},
		"a statement that writes": {done("BEGIN"), done("SELECT 0"), failure("ERROR", "25006"), ready('E')},
	} {
		s := &server{answers: []messages{described, last, rolledBack}}
		e := begin(t, s, locksql.ReadCommitted, said).Exec(t.Context(), t.Context(), pgsession.Query{SQL: "select f()"}, time.Second)
		if !errors.Is(e.Err, lockerr.ErrStandby) || e.Outcome != txlock.Failed {
			t.Errorf("Exec of %s: got %+v", name, e)
		}
	}
}

// At SERIALIZABLE the session holds the lock past COMMIT on a direct connection
// alone, and frees it where COMMIT fails.
func TestCommitSerializable(t *testing.T) {
	open := func(pid string) messages {
		return messages{done("BEGIN"), row("t"), done("SELECT 1"), done("COMMIT"), done("SET"), row("t"), done("SELECT 1"),
			row(pid), done("SELECT 1"), done("SAVEPOINT"), ready('T')}
	}
	for name, test := range map[string]struct {
		pid     string
		answers []messages
		last    string // the last message
		outcome txlock.Outcome
		closed  bool
	}{
		"direct": {pid: "7", answers: []messages{{done("RELEASE"), done("SELECT 1"), done("COMMIT"), done("SELECT 1"), ready('I')}},
			last: "pg_advisory_unlock", outcome: txlock.Committed},
		"behind a pooler": {pid: "8", answers: []messages{committed}, last: "release savepoint pgadvisory; commit", outcome: txlock.Committed},
		"COMMIT fails": {pid: "7", answers: []messages{{done("RELEASE"), done("SELECT 1"), failure("ERROR", "40001"), ready('I')}, {done("SELECT 1"), ready('I')}},
			last: "select pg_catalog.pg_advisory_unlock(", outcome: txlock.Failed},
		"COMMIT fails, and the unlock": {pid: "7", answers: []messages{{done("RELEASE"), done("SELECT 1"), failure("ERROR", "40001"), ready('I')},
			{failure("ERROR", "XX000"), ready('I')}}, last: "select pg_catalog.pg_advisory_unlock(", outcome: txlock.Failed, closed: true},
		"the lock is cancelled": {pid: "7", answers: []messages{{done("RELEASE"), failure("ERROR", "57014"), ready('E')},
			{done("ROLLBACK"), done("SELECT 1"), ready('I')}}, last: "rollback; select case when exists", outcome: txlock.Failed},
		"the unlock is cancelled": {pid: "7", answers: []messages{{done("RELEASE"), done("SELECT 1"), done("COMMIT"), failure("ERROR", "57014"), ready('I')},
			{done("SELECT 1"), ready('I')}}, last: "select case when exists", outcome: txlock.Committed},
		"RELEASE fails": {pid: "7", answers: []messages{{failure("ERROR", "3B001"), ready('E')}}, last: "release savepoint", outcome: txlock.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{answers: append([]messages{open(test.pid)}, test.answers...)}
			tx := begin(t, s, locksql.Serializable)
			if granted, err := tx.Open(t.Context(), acquire.Opening{}); !granted {
				t.Fatal(err)
			}
			outcome, err := tx.Commit(t.Context())
			if outcome != test.outcome || (err == nil) != (outcome == txlock.Committed) || tx.Session.Closed() != test.closed {
				t.Errorf("outcome %d, %v, closed %t", outcome, err, tx.Session.Closed())
			}
			if last := s.asked[len(s.asked)-1]; len(s.answers) > 0 || !strings.Contains(last, test.last) {
				t.Errorf("the last message is %q, and %d answers are left", last, len(s.answers))
			}
		})
	}
}

// What becomes of COMMIT, and with which error.
func TestCommit(t *testing.T) {
	for name, test := range map[string]struct {
		answer  messages
		outcome txlock.Outcome
		want    error
	}{
		"committed":      {committed, txlock.Committed, nil},
		"rolled back":    {messages{done("RELEASE"), done("ROLLBACK"), ready('I')}, txlock.RolledBack, pgx.ErrTxCommitRollback},
		"refused":        {messages{done("RELEASE"), failure("ERROR", "23505"), ready('I')}, txlock.Failed, nil},
		"no savepoint":   {messages{failure("ERROR", "3B001"), ready('E')}, txlock.Unknown, lockerr.ErrTxEnded},
		"no transaction": {messages{failure("ERROR", "25P01"), ready('I')}, txlock.Unknown, lockerr.ErrTxEnded},
		"ended before":   {messages{failure("FATAL", "57P01")}, txlock.RolledBack, lockerr.ErrLost},
		"ended at":       {messages{done("RELEASE"), failure("FATAL", "57P01")}, txlock.Unknown, lockerr.ErrCommitUnknown},
		"hung up":        {nil, txlock.Unknown, lockerr.ErrCommitUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			tx := begin(t, &server{answers: []messages{opened("t"), test.answer}}, locksql.ReadCommitted)
			if granted, err := tx.Open(t.Context(), acquire.Opening{}); !granted {
				t.Fatal(err)
			}
			outcome, err := tx.Commit(t.Context())
			if outcome != test.outcome || (err == nil) != (outcome == txlock.Committed) || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("outcome %d, %v; want %d, %v", outcome, err, test.outcome, test.want)
			}
		})
	}
}

// Why a transaction must not be committed though fn returned nil.
func TestRefuse(t *testing.T) {
	failed := errors.New("failed")
	for name, test := range map[string]struct {
		status  byte // of the transaction; 0 where the session is closed
		ended   error
		outcome txlock.Outcome
		wants   []error
	}{
		"open":             {'T', nil, txlock.Committed, nil},
		"ended by text":    {'I', nil, txlock.Unknown, []error{lockerr.ErrTxEnded}},
		"ended by fn":      {'T', lockerr.ErrTxEnded, txlock.RolledBack, []error{lockerr.ErrTxEnded}},
		"failed":           {'E', nil, txlock.RolledBack, []error{pgx.ErrTxCommitRollback, failed}},
		"the session ends": {0, nil, txlock.RolledBack, []error{lockerr.ErrLost}},
	} {
		t.Run(name, func(t *testing.T) {
			tx := begin(t, &server{answers: []messages{append(opened("t")[:4:4], ready(max(test.status, 'A')))}}, locksql.ReadCommitted)
			if _, err := tx.Open(t.Context(), acquire.Opening{}); err != nil {
				t.Fatal(err)
			}
			if test.status == 0 {
				tx.Session.Discard()
			}
			outcome, err := tx.Refuse(test.ended, failed)
			if outcome != test.outcome || (err == nil) != (outcome == txlock.Committed) {
				t.Errorf("outcome %d, %v", outcome, err)
			}
			for _, want := range test.wants {
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			}
		})
	}
}

// What becomes of an Exec in one message.
func TestExec(t *testing.T) {
	described := messages{&pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, ready('I')}
	rolledBack := messages{done("ROLLBACK"), ready('I')}
	for name, test := range map[string]struct {
		answers []messages
		ended   bool // the wait's ctx, before the last answer
		simple  bool
		want    txlock.Executed
		is      error // what its error is, if it has one
		code    string
	}{
		"committed":                      {answers: []messages{described, {done("BEGIN"), done("SELECT 1"), done("UPDATE 3"), done("COMMIT"), ready('I')}}, want: txlock.Executed{Tag: "UPDATE 3"}},
		"no number":                      {answers: []messages{described, {done("BEGIN"), done("SELECT 1"), done("CREATE TABLE"), done("COMMIT"), ready('I')}}, want: txlock.Executed{Tag: "CREATE TABLE"}},
		"fails":                          {answers: []messages{described, {done("BEGIN"), done("SELECT 1"), failure("ERROR", "23505"), ready('E')}, rolledBack}, want: txlock.Executed{Outcome: txlock.RolledBack}, code: "23505"},
		"COMMIT fails":                   {answers: []messages{described, {done("BEGIN"), done("SELECT 1"), done("UPDATE 3"), failure("ERROR", "23503"), ready('I')}}, want: txlock.Executed{Outcome: txlock.Failed}, code: "23503"},
		"COMMIT is lost":                 {answers: []messages{described, {done("BEGIN"), done("SELECT 1"), done("UPDATE 3"), failure("FATAL", "57P01")}}, want: txlock.Executed{Outcome: txlock.Unknown}, is: lockerr.ErrCommitUnknown},
		"hung up":                        {answers: []messages{described, nil}, want: txlock.Executed{Outcome: txlock.Unknown}, is: lockerr.ErrCommitUnknown},
		"ends itself":                    {answers: []messages{described, {done("BEGIN"), done("SELECT 1"), done("ROLLBACK"), done("COMMIT"), ready('I')}}, want: txlock.Executed{Outcome: txlock.Unknown}, is: lockerr.ErrTxEnded},
		"a slow lock":                    {answers: []messages{described, {done("BEGIN"), failure("ERROR", "55P03"), ready('E')}, rolledBack}, want: txlock.Executed{Busy: true}},
		"ctx ends while it is described": {answers: []messages{described}, ended: true, want: txlock.Executed{Outcome: txlock.NotAcquired}, is: context.Canceled},
		"ctx ends":                       {answers: []messages{described, {done("BEGIN"), failure("ERROR", "55P03"), ready('E')}, rolledBack}, ended: true, want: txlock.Executed{Outcome: txlock.NotAcquired}, is: context.Canceled},
		"deadlock":                       {answers: []messages{described, {done("BEGIN"), failure("ERROR", "40P01"), ready('E')}, rolledBack}, want: txlock.Executed{Outcome: txlock.Failed}, is: lockerr.ErrDeadlock},
		"dead before":                    {answers: []messages{nil}, want: txlock.Executed{Outcome: txlock.Failed, Dead: true}},
		"dead":                           {answers: []messages{described, {failure("FATAL", "57P01")}}, want: txlock.Executed{Outcome: txlock.Failed, Dead: true}, code: "57P01"},
		"dead, and ctx ends": {answers: []messages{described, {failure("FATAL", "57P01")}}, ended: true,
			want: txlock.Executed{Outcome: txlock.NotAcquired, Dead: true}, is: lockerr.ErrNotAcquired, code: "57P01"},
		"cannot parse": {answers: []messages{{failure("ERROR", "42601"), ready('I')}}, want: txlock.Executed{Outcome: txlock.RolledBack}, code: "42601"},
		"simple":       {simple: true, want: txlock.Executed{Unfit: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{answers: test.answers}
			tx := begin(t, s, locksql.ReadCommitted)
			waitCtx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.ended {
				s.last = cancel
			}
			q := pgsession.Query{SQL: "update t set n = 1"}
			if test.simple {
				q.Args = []any{pgx.QueryExecModeSimpleProtocol}
			}
			e := tx.Exec(t.Context(), waitCtx, q, time.Second)
			err := e.Err
			e.Err = nil
			hasNone := test.want.Outcome == txlock.Committed
			if e != test.want || (err == nil) != hasNone || test.is != nil && !errors.Is(err, test.is) || lockerr.SQLState(err) != test.code && test.code != "" {
				t.Errorf("got %+v, %v; want %+v", e, err, test.want)
			}
		})
	}
}

// A transaction that somebody has left open on the connection, where a wrapper of the
// driver keeps database/sql from seeing it, is not committed with an Exec.
func TestExecAfterATransactionLeftOpen(t *testing.T) {
	described := messages{&pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, ready('I')}
	s := &server{answers: []messages{opened("t"), {done("ROLLBACK"), ready('I')}, described,
		{done("BEGIN"), done("SELECT 1"), done("UPDATE 3"), done("COMMIT"), ready('I')}}}
	tx := begin(t, s, locksql.ReadCommitted)
	if granted, err := tx.Open(t.Context(), acquire.Opening{}); !granted {
		t.Fatal(err)
	}
	e := tx.Exec(t.Context(), t.Context(), pgsession.Query{SQL: "update t set n = 1"}, time.Second)
	if e.Err != nil || len(s.asked) != 4 || s.asked[1] != "rollback" {
		t.Errorf("%+v after %q", e, s.asked)
	}
}
