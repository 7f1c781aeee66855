package interrupt

import (
	"context"
	"net"
	"time"
)

// Conn is what an interrupt needs of a connection. A *pgconn.PgConn is one.
type Conn interface {
	IsClosed() bool
	CancelRequest(ctx context.Context) error
	Conn() net.Conn
	Close(ctx context.Context) error
}

// closeNow closes conn, and with it the session: the server frees the locks of
// the session even if the goodbye does not arrive.
func closeNow(conn Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the socket is closed in any case
}

// ClosedWithin waits for c to be closed, for at most d, and reports whether it
// is.
func ClosedWithin(c <-chan struct{}, d time.Duration) bool {
	select {
	case <-c:
		return true
	default:
	}
	if d <= 0 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}
