package interrupt

import (
	"context"
	"time"
)

// hangUpAfter is how long the connection of a cancel request is kept open for
// the server to close it: for longer than PgBouncer keeps a request that it
// cannot pass on (cancel_wait_timeout, ten seconds), and as long as pgx
// does when it closes a connection.
const hangUpAfter = 15 * time.Second

// A Request is a cancel request that is under way.
type Request struct {
	ended chan struct{}
	done  bool // set before ended is closed: the server has done what it was asked
}

// RequestCancel asks the server to cancel the statement that runs on conn. It
// returns at once.
//
// The request's connection stays open for the server's answer, whatever becomes
// of conn or the caller meanwhile: PgBouncer 1.18 and 1.19.0 crash where the
// client of a cancel request hangs up before the server does, and all their
// clients lose their connections.
func RequestCancel(conn Conn) *Request {
	r := &Request{ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		ctx, cancel := context.WithTimeout(context.Background(), hangUpAfter)
		defer cancel()
		err := conn.CancelRequest(ctx)
		r.done = err == nil && ctx.Err() == nil // pgx does not say so if nothing came back
	}()
	return r
}

// Done waits for the server's answer, for at most d, and reports whether the
// server has done what it was asked. If not, the request may still be under way.
func (r *Request) Done(d time.Duration) bool { return ClosedWithin(r.ended, d) && r.done }

// Handler cancels pgx's own statements: a ctxwatch.Handler, of one connection.
type Handler struct {
	Conn  Conn
	Delay time.Duration // how long the server has for its answer; after it, the connection is cut

	cut   time.Time
	over  chan struct{} // closed when the statement is over
	asked chan struct{} // closed when there is no other cancel request to come
	done  bool          // set before asked is closed: the server has done what it was asked, each time
}

// askAgain is how long after a cancel request the statement may go on until there is
// another one. One that the server gets before the statement cancels nothing.
const askAgain = time.Second

// HandleCancel is ctxwatch.Handler's. It is called when the ctx of a statement
// has ended.
func (h *Handler) HandleCancel(context.Context) {
	h.cut = time.Now().Add(h.Delay)
	_ = h.Conn.Conn().SetDeadline(h.cut) // fails only on a closed connection
	h.over, h.asked = make(chan struct{}), make(chan struct{})
	go h.ask()
}

func (h *Handler) ask() {
	defer close(h.asked)
	for h.done = true; h.done && time.Now().Before(h.cut); {
		h.done = RequestCancel(h.Conn).Done(hangUpAfter)
		if ClosedWithin(h.over, askAgain) {
			return
		}
	}
}

// HandleUnwatchAfterCancel is ctxwatch.Handler's. It is called when the statement
// is over, and returns when no cancel request can reach the next one.
func (h *Handler) HandleUnwatchAfterCancel() {
	close(h.over)
	switch {
	case h.Conn.IsClosed():
	case ClosedWithin(h.asked, time.Until(h.cut)) && h.done:
		_ = h.Conn.Conn().SetDeadline(time.Time{}) // fails only on a closed connection
	default: // pgx's Close would wait for this method
		_ = h.Conn.Conn().Close()
	}
}
