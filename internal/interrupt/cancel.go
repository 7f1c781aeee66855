package interrupt

import (
	"context"
	"errors"
	"net"
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
	done  bool // set before ended is closed: the server has done what it was asked, or was not asked
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
		r.done = err == nil && ctx.Err() == nil || isDial(err) // pgx does not say so if nothing came back
	}()
	return r
}

// isDial reports whether err is of a connection that was not made.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Done waits for the server's answer, for at most d, and reports whether the
// server has done what it was asked, or there was no connection on which to ask. If
// not, the request may still be under way.
func (r *Request) Done(d time.Duration) bool { return ClosedWithin(r.ended, d) && r.done }

// askAgain is how long after a cancel request a statement may go on until there is
// another one. A request that the server gets before the statement, or between the
// messages in which pgx prepares and executes it, cancels nothing.
const askAgain = 250 * time.Millisecond

// Requests are cancel requests for one statement, one after the other.
type Requests struct {
	ended chan struct{}
	done  bool // set before ended is closed: none of them is under way
}

// RequestCancelUntil asks the server to cancel the statement that runs on conn, again
// and again, until over is closed or it is late. It returns at once.
func RequestCancelUntil(conn Conn, over <-chan struct{}, late time.Time) *Requests {
	r := &Requests{ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		for r.done = true; r.done && time.Now().Before(late); {
			r.done = RequestCancel(conn).Done(hangUpAfter)
			if ClosedWithin(over, askAgain) {
				return
			}
		}
	}()
	return r
}

// Done waits for the server's answers, for at most d, and reports whether no request is
// under way any more, which would hit the next statement of the connection.
func (r *Requests) Done(d time.Duration) bool { return ClosedWithin(r.ended, d) && r.done }

// Handler cancels pgx's own statements: a ctxwatch.Handler, of one connection.
type Handler struct {
	Conn  Conn
	Delay time.Duration // how long the server has for its answer; after it, the connection is cut

	cut      time.Time
	over     chan struct{} // closed when the statement is over
	requests *Requests
}

// HandleCancel is ctxwatch.Handler's. It is called when the ctx of a statement
// has ended.
func (h *Handler) HandleCancel(context.Context) {
	h.cut = time.Now().Add(h.Delay)
	_ = h.Conn.Conn().SetDeadline(h.cut) // fails only on a closed connection
	h.over = make(chan struct{})
	h.requests = RequestCancelUntil(h.Conn, h.over, h.cut)
}

// HandleUnwatchAfterCancel is ctxwatch.Handler's. It is called when the statement
// is over, and returns when no cancel request can reach the next one.
func (h *Handler) HandleUnwatchAfterCancel() {
	close(h.over)
	switch {
	case h.Conn.IsClosed():
	case h.requests.Done(time.Until(h.cut)):
		_ = h.Conn.Conn().SetDeadline(time.Time{}) // fails only on a closed connection
	default: // pgx's Close would wait for this method
		_ = h.Conn.Conn().Close()
	}
}
