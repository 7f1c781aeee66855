package pgsession_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgfake"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// connect returns a session on a server that answers each message with what
// answer says, or hangs up where that says nothing.
func connect(t *testing.T, answer func(message pgproto3.FrontendMessage) []pgproto3.BackendMessage) *pgsession.Session {
	t.Helper()
	return pgsession.Of(pgfake.Connect(t, answer))
}

var (
	done    = pgfake.Done
	ready   = pgfake.Ready
	failure = pgfake.Failure
)

// poolerFailure is what PgBouncer says when its connection to the server breaks
// off: it has no routine.
var poolerFailure = &pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "server conn crashed?"}

var pg = func() *locksql.Transaction {
	return &locksql.Transaction{Keys: []hashkey.Key{hashkey.Int64(7)}, Level: locksql.ReadCommitted}
}()

// cutShort is what the server says of a COMMIT whose wait for a standby was
// cancelled.
var cutShort = &pgproto3.NoticeResponse{Severity: "WARNING", Code: "01000", Routine: "SyncRepWaitForLSN",
	Message: "canceling wait for synchronous replication due to user request"}

// What is known of COMMIT depends on what came back, and never more is claimed.
func TestFateOfCommit(t *testing.T) {
	for name, test := range map[string]struct {
		answer []pgproto3.BackendMessage
		want   pgsession.Fate
		closed bool
	}{
		"committed":                    {[]pgproto3.BackendMessage{done("RELEASE"), done("COMMIT"), ready('I')}, pgsession.Executed, false},
		"committed, then ended":        {[]pgproto3.BackendMessage{done("RELEASE"), done("COMMIT"), failure("FATAL", "57P01")}, pgsession.Executed, true},
		"not on a standby":             {[]pgproto3.BackendMessage{done("RELEASE"), cutShort, done("COMMIT"), ready('I')}, pgsession.Unknown, false},
		"another warning":              {[]pgproto3.BackendMessage{done("RELEASE"), &pgproto3.NoticeResponse{Severity: "WARNING", Routine: "exec_stmt_raise"}, done("COMMIT"), ready('I')}, pgsession.Executed, false},
		"refused":                      {[]pgproto3.BackendMessage{done("RELEASE"), failure("ERROR", "23503"), ready('I')}, pgsession.NotExecuted, false},
		"no savepoint":                 {[]pgproto3.BackendMessage{failure("ERROR", "3B001"), ready('E')}, pgsession.NotExecuted, false},
		"ended before RELEASE":         {[]pgproto3.BackendMessage{failure("FATAL", "57P01")}, pgsession.NotExecuted, true},
		"ended at COMMIT":              {[]pgproto3.BackendMessage{done("RELEASE"), failure("FATAL", "57P01")}, pgsession.Unknown, true},
		"a pooler lost the server":     {[]pgproto3.BackendMessage{poolerFailure}, pgsession.Unknown, true},
		"hung up":                      {nil, pgsession.Unknown, true},
		"a stale answer":               {[]pgproto3.BackendMessage{done("SELECT 1"), ready('I')}, pgsession.Unknown, true},
		"a stale answer, then the own": {[]pgproto3.BackendMessage{done("SELECT 1"), ready('I'), done("RELEASE"), done("COMMIT"), ready('I')}, pgsession.Unknown, true},
		"nothing":                      {[]pgproto3.BackendMessage{ready('I')}, pgsession.Unknown, true},
		"half":                         {[]pgproto3.BackendMessage{done("RELEASE"), ready('T')}, pgsession.Unknown, true},
		"one too many":                 {[]pgproto3.BackendMessage{done("RELEASE"), done("COMMIT"), done("SELECT 1"), ready('I')}, pgsession.Executed, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := connect(t, func(pgproto3.FrontendMessage) []pgproto3.BackendMessage { return test.answer })
			m, index := pg.Commit(false)
			a, err := s.Send(t.Context(), interrupt.Policy{}, m)
			if got := a.Fate(index, err); got != test.want || s.Closed() != test.closed {
				t.Errorf("fate %d, closed %t, %v; want %d, %t", got, s.Closed(), err, test.want, test.closed)
			}
		})
	}
}

// A lock is granted if every statement that asks for it answers true, and the
// whole answer is there.
func TestGranted(t *testing.T) {
	row := pgfake.Row
	for name, test := range map[string]struct {
		answer []pgproto3.BackendMessage
		want   bool
	}{
		"true":   {[]pgproto3.BackendMessage{done("BEGIN"), row("t"), done("SELECT 1"), done("SAVEPOINT"), ready('T')}, true},
		"false":  {[]pgproto3.BackendMessage{done("BEGIN"), row("f"), done("SELECT 1"), done("SAVEPOINT"), ready('T')}, false},
		"null":   {[]pgproto3.BackendMessage{done("BEGIN"), &pgproto3.DataRow{Values: [][]byte{nil}}, done("SELECT 1"), done("SAVEPOINT"), ready('T')}, false},
		"no row": {[]pgproto3.BackendMessage{done("BEGIN"), done("SELECT 0"), done("SAVEPOINT"), ready('T')}, false},
		"short":  {[]pgproto3.BackendMessage{done("BEGIN"), row("t"), done("SELECT 1"), ready('T')}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := connect(t, func(pgproto3.FrontendMessage) []pgproto3.BackendMessage { return test.answer })
			if a, err := s.Open(t.Context(), interrupt.Policy{}, pg.Try()); a.Granted() != test.want {
				t.Errorf("granted %t, %v", a.Granted(), err)
			}
		})
	}
}

// A message is not sent on a connection that is closed, and that is known.
func TestNotSent(t *testing.T) {
	s := connect(t, func(pgproto3.FrontendMessage) []pgproto3.BackendMessage { return nil })
	s.Discard()
	m, index := pg.Commit(false)
	if a, err := s.Send(t.Context(), interrupt.Policy{}, m); a.Fate(index, err) != pgsession.NotExecuted {
		t.Errorf("fate %d, %v", a.Fate(index, err), err)
	}
}

// A statement that is missing, or in the way, is noticed, and the session goes
// on with text.
func TestOpenWithoutPreparedStatements(t *testing.T) {
	for _, code := range []string{"26000", "42P05"} {
		s := connect(t, func(m pgproto3.FrontendMessage) []pgproto3.BackendMessage {
			if _, ok := m.(*pgproto3.Sync); ok {
				return []pgproto3.BackendMessage{failure("ERROR", code), ready('I')}
			}
			return []pgproto3.BackendMessage{done("BEGIN"), &pgproto3.DataRow{Values: [][]byte{[]byte("t")}}, done("SELECT 1"), done("SAVEPOINT"), ready('T')}
		})
		if a, err := s.Open(t.Context(), interrupt.Policy{}, pg.Try()); err != nil || !a.Granted() {
			t.Errorf("%s: granted %t, %v", code, a.Granted(), err)
		}
	}
}

func TestGoesOn(t *testing.T) {
	for err, want := range map[error]bool{
		&pgconn.PgError{Severity: "ERROR"}:                                true,
		&pgconn.PgError{Severity: "FATAL"}:                                false,
		&pgconn.PgError{Severity: "FEHLER", SeverityUnlocalized: "ERROR"}: true,
		&pgconn.PgError{Severity: "PANIK", SeverityUnlocalized: "PANIC"}:  false,
		errors.New("broken pipe"):                                         false,
	} {
		if pgsession.GoesOn(err) != want {
			t.Errorf("GoesOn(%v) = %t", err, !want)
		}
	}
}

// A stale answer in the place of a statement's description is not taken for one,
// and closes the connection: nothing was executed.
func TestStaleDescription(t *testing.T) {
	for name, stale := range map[string][]pgproto3.BackendMessage{
		"nothing":             {},
		"a select":            {&pgproto3.DataRow{Values: [][]byte{[]byte("1")}}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}},
		"a commit":            {&pgproto3.CommandComplete{CommandTag: []byte("COMMIT")}},
		"an empty text":       {&pgproto3.EmptyQueryResponse{}},
		"parsed only":         {&pgproto3.ParseComplete{}},
		"a statement dropped": {&pgproto3.CloseComplete{}},
		"half a description":  {&pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}},
		"two descriptions":    {&pgproto3.ParseComplete{}, &pgproto3.NoData{}, &pgproto3.ParseComplete{}, &pgproto3.NoData{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := connect(t, func(pgproto3.FrontendMessage) []pgproto3.BackendMessage {
				return append(stale, &pgproto3.ReadyForQuery{TxStatus: 'I'})
			})
			commit := locksql.One(locksql.Statement{SQL: "commit", Tag: "COMMIT"})
			a, _, sent, err := s.Exec(t.Context(), t.Context(), interrupt.Policy{}, locksql.Message{}, pgsession.Query{SQL: "update t set n = $1", Args: []any{1}}, commit)
			if err == nil || !s.Closed() || sent || a.Fate(1, err) != pgsession.NotExecuted {
				t.Errorf("got %v, closed %t, sent %t, fate %v", err, s.Closed(), sent, a.Fate(1, err))
			}
		})
	}
}
