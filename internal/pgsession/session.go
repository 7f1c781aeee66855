// Package pgsession is a PostgreSQL session in our hands: a connection of pgx
// that was taken from a pool, below database/sql. It sends messages, reads each
// answer to its end, and says what is certain about the outcome. It is the only
// package that speaks the wire protocol.
package pgsession

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// Session is one connection, and what is known of it. It lives as long as the
// connection, and has one user at a time, as the connection has.
type Session struct {
	// BeforeDiscard, if it is not nil, is told why a message, or its answer, is about
	// to have the session discarded.
	BeforeDiscard func(why error)

	conn        *pgx.Conn
	pg          *pgconn.PgConn
	defaultMode pgx.QueryExecMode
	tracer      pgx.QueryTracer // nil: none

	prepares   bool                    // messages go as prepared statements
	follows    bool                    // what follows the message of Open is prepared
	names      map[string]bool         // of the statements that are prepared
	statements map[string]*description // of Exec, by their text

	out outgoing
}

// description is what the server says of a statement.
type description struct {
	name string // "" where it is not prepared
	*pgconn.StatementDescription
}

// outgoing is room for what is being written, which is encoded at once.
type outgoing struct {
	query   pgproto3.Query
	bind    pgproto3.Bind
	execute pgproto3.Execute
	sync    pgproto3.Sync
	params  [][]byte
	digits  []byte
}

const dataKey = "pgadvisory"

// Of returns the session of conn.
func Of(conn *pgx.Conn) *Session {
	data := conn.PgConn().CustomData()
	s, ok := data[dataKey].(*Session)
	if !ok {
		config := conn.Config() // which is a copy, and not cheap
		s = &Session{
			conn:        conn,
			pg:          conn.PgConn(),
			defaultMode: config.DefaultQueryExecMode,
			tracer:      config.Tracer,
			prepares:    config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement,
			names:       make(map[string]bool),
			statements:  make(map[string]*description),
		}
		data[dataKey] = s
	}
	return s
}

// Unwrap returns the session of a connection of database/sql, or nil where that
// is not pgx's. Instrumented drivers wrap connections; some offer a way back.
func Unwrap(driverConn any) *Session {
	for {
		switch c := driverConn.(type) {
		case *stdlib.Conn:
			return Of(c.Conn())
		case interface{ Raw() driver.Conn }:
			driverConn = c.Raw()
		case interface{ WrappedConn() driver.Conn }:
			driverConn = c.WrappedConn()
		default:
			return nil
		}
	}
}

// PG returns the connection.
func (s *Session) PG() *pgconn.PgConn { return s.pg }

// Closed reports whether the connection is closed.
func (s *Session) Closed() bool { return s.pg.IsClosed() }

// Usable reports whether the session is ready for a message, and in no
// transaction.
func (s *Session) Usable() bool {
	return !s.pg.IsClosed() && !s.pg.IsBusy() && s.pg.TxStatus() == 'I'
}

// InTransaction reports whether a transaction is open, failed or not.
func (s *Session) InTransaction() bool { return !s.pg.IsClosed() && s.pg.TxStatus() != 'I' }

// Pretends reports whether the server has other locks than PostgreSQL's, as it said
// when the session began.
func (s *Session) Pretends() bool { return s.pg.ParameterStatus("crdb_version") != "" }

// closeTimeout is how long Discard waits for the server.
const closeTimeout = 250 * time.Millisecond

// Discard ends the session, and with it all that the session has locked.
// database/sql must then be told to forget the connection: see [Forget].
//
// A server closes the socket when it has freed the session's locks, so Discard
// waits for that, within reason: the next call for the lock shall find it free.
func (s *Session) Discard() {
	if s.pg.IsClosed() {
		interrupt.ClosedWithin(s.pg.CleanupDone(), closeTimeout) // pgx is doing the same
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.pg.IsBusy() {
		// The server would not notice soon, during a statement, that the client
		// has gone. Without an answer the statement is left to end.
		interrupt.RequestCancel(s.pg).Done(closeTimeout)
	}
	conn := s.pg.Conn()
	if conn.SetDeadline(time.Now().Add(closeTimeout)) == nil { // or it is closed, or could not be bounded
		s.pg.Frontend().Send(&pgproto3.Terminate{})
		if s.pg.Frontend().Flush() == nil {
			_, _ = io.Copy(io.Discard, conn) // ends in any case, and then nothing is left to do
		}
	}
	_ = s.pg.Close(ctx) // closes the socket in any case
}

// Interrupt asks the server to cancel what the session executes. It may be
// called at any time.
func (s *Session) Interrupt() {
	interrupt.RequestCancel(s.pg).Done(closeTimeout) // without an answer the statement is left to end
}

// Cut closes the socket under the session's user. It may be called at any time.
func (s *Session) Cut() { _ = s.pg.Conn().Close() } // an error means that it is closed

// Forget has database/sql forget a connection, whatever state it is in, rather
// than give it back to the pool.
func Forget(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // which is what Raw returns
}
