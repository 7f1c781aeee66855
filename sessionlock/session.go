package sessionlock

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// session is the server session behind a connection of the pool.
type session struct{ pg *pgconn.PgConn }

// unwrap returns the session behind driverConn. Instrumented drivers wrap
// connections; the better ones offer a way back.
func unwrap(driverConn any) (session, error) {
	for inner := driverConn; ; {
		switch c := inner.(type) {
		case *stdlib.Conn:
			return session{c.Conn().PgConn()}, nil
		case interface{ Raw() driver.Conn }:
			inner = c.Raw()
		default:
			return session{}, fmt.Errorf("%w, and not a %T", errDriver, driverConn)
		}
	}
}

// send sends message, which the caller must do within Raw, and reads the
// answer to its end.
func (s session) send(ctx context.Context, message string, p interrupt.Patience) ([]*pgconn.Result, error) {
	var w interrupt.Watch
	w.Begin(ctx, s.pg, p)
	defer w.End()
	// Not ctx: pgx would close the connection the moment it ends.
	return s.pg.Exec(context.Background(), message).ReadAll()
}

// usable reports whether nothing stands between s and its next message.
func (s session) usable() bool {
	return !s.pg.IsClosed() && !s.pg.IsBusy() && s.pg.TxStatus() == 'I'
}

// farewell is how long discard waits for the server.
const farewell = 250 * time.Millisecond

// discard ends the session, and with it whatever it has locked, and returns
// what Raw must be told. ErrBadConn alone would be too little: a *sql.DB over
// a pgxpool only gives the connection back to that.
//
// A server closes the socket when it has freed the session's locks, so discard
// waits for that, within reason: who asks for the lock next shall find it free.
func (s session) discard() error {
	if s.pg.IsClosed() {
		interrupt.ClosedWithin(s.pg.CleanupDone(), farewell) // pgx is doing the same
		return driver.ErrBadConn
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if s.pg.IsBusy() {
		// Of a statement that still runs, the server would not notice soon
		// that nobody waits for it. An error leaves it to end by itself.
		_ = s.pg.CancelRequest(ctx)
	}
	conn := s.pg.Conn()
	_ = conn.SetDeadline(time.Now().Add(farewell)) // fails on a closed socket, like what follows
	s.pg.Frontend().Send(&pgproto3.Terminate{})
	if s.pg.Frontend().Flush() == nil {
		_, _ = io.Copy(io.Discard, conn) // ends in any case, and then nothing is left to do
	}
	_ = s.pg.Close(ctx) // closes the socket in any case
	return driver.ErrBadConn
}

// cut closes the socket under whoever uses the session. Unlike the other
// methods it may be called outside Raw.
func (s session) cut() { _ = s.pg.Conn().Close() } // an error means that it is closed
