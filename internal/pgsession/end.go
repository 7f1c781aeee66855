package pgsession

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// Rollback ends the transaction, if one is open. If that fails, the session is
// discarded, and the server rolls back.
func (s *Session) Rollback(ctx context.Context) {
	if s.pg.IsBusy() {
		s.Discard()
	}
	if !s.InTransaction() {
		return
	}
	if _, err := s.Send(ctx, interrupt.Ending, locksql.One(locksql.Rollback)); err != nil || s.InTransaction() {
		s.Discard()
	}
}

// Read has pgx read what the server may have sent unasked, such as the message
// that it is ending the session. It returns why the session is gone, or nil, also
// where that cannot be seen, on a connection without deadlines.
func (s *Session) Read() error {
	conn := s.pg.Conn()
	defer func() {
		if !s.pg.IsClosed() {
			_ = conn.SetReadDeadline(time.Time{}) // an error means that there was none
		}
	}()
	for {
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); errors.Is(err, net.ErrClosed) {
			return err
		} else if err != nil {
			return nil
		}
		var timeout net.Error
		switch _, err := s.pg.ReceiveMessage(context.Background()); {
		case errors.As(err, &timeout) && timeout.Timeout():
			return nil
		case err != nil:
			return err
		}
	}
}
