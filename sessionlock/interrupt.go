package sessionlock

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A patience says what happens to a message on the wire once its ctx ends.
//
// pgx, left to itself, closes the connection at that moment. That would cost
// the pool a connection where the answer to a try was just coming, and a lock
// where the message was sent on a session that holds one.
type patience struct {
	slack  time.Duration // after a deadline that the server knows as well: let it answer first
	cancel bool          // then ask the server to cancel the statement
	give   time.Duration // then cut the connection if it has not answered within this
}

var (
	asking   = patience{give: 50 * time.Millisecond}
	waiting  = patience{slack: 250 * time.Millisecond, cancel: true, give: 50 * time.Millisecond}
	holding  = patience{cancel: true, give: 5 * time.Second}
	checking = patience{}
	leaving  = patience{cancel: true, give: time.Second}
)

// interrupt ends a message on pg as p says, once ctx has ended. The function
// it returns must be called when the answer is there; after that, nothing of
// the interrupt can reach a later message.
func interrupt(ctx context.Context, pg *pgconn.PgConn, p patience) (over func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	answered := make(chan struct{})
	finished := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(finished)
		p.interrupt(ctx, pg, answered)
	})
	return func() {
		close(answered)
		if stop() {
			return
		}
		<-finished
		// The cut may have come just after the answer. Where it came before,
		// pgx is closing the connection, and has a deadline of its own on it.
		if !pg.IsClosed() {
			_ = pg.Conn().SetDeadline(time.Time{})
		}
	}
}

func (p patience) interrupt(ctx context.Context, pg *pgconn.PgConn, answered <-chan struct{}) {
	if ctx.Err() == context.DeadlineExceeded && closedWithin(answered, p.slack) {
		return
	}
	give := time.Now().Add(p.give)
	if p.cancel && !closedWithin(answered, 0) {
		// CancelRequest returns when the server has signalled the backend. An
		// error leaves the statement running, and the cut below ends it.
		cancelCtx, done := context.WithDeadline(context.Background(), give)
		_ = pg.CancelRequest(cancelCtx)
		done()
	}
	if !closedWithin(answered, time.Until(give)) {
		// pgx takes the failed read for the end of the connection, and sends a
		// cancel request of its own before it closes the socket.
		_ = pg.Conn().SetDeadline(time.Unix(1, 0))
	}
}

// closedWithin waits for c to be closed, for at most d, and reports whether it
// is.
func closedWithin(c <-chan struct{}, d time.Duration) bool {
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
