package xactlock

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A patience says what happens to a message on the wire once its ctx ends.
//
// pgx, left to itself, closes the connection at that moment. Inside fn that
// would free the lock under a running fn, and before the grant it would cost
// the pool a connection for each wait that reaches its deadline.
type patience struct {
	slack  time.Duration // after a deadline that the server knows as well: let it answer first
	cancel bool          // then ask the server to cancel the statement
	give   time.Duration // then cut the connection if it has not answered within this
}

var (
	opening = patience{give: 50 * time.Millisecond}
	waiting = patience{slack: 250 * time.Millisecond, cancel: true, give: 50 * time.Millisecond}
	working = patience{cancel: true, give: time.Second}
	ending  = patience{give: 5 * time.Second}
)

// cancelTimeout bounds the wait for the server's word that it has dealt with a
// cancel request.
const cancelTimeout = 5 * time.Second

// interrupt ends a message on pg as p says, once ctx has ended. The function
// it returns must be called when the answer is there; after that, nothing of
// the interrupt can reach a later message. In the worst case the connection is
// closed then.
func interrupt(ctx context.Context, pg *pgconn.PgConn, p patience) (over func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	answered := make(chan struct{})
	finished := make(chan struct{})
	atLarge := false // a cancel request may still reach the server
	stop := context.AfterFunc(ctx, func() {
		defer close(finished)
		atLarge = p.interrupt(ctx, pg, answered)
	})
	return func() {
		close(answered)
		if stop() {
			return
		}
		<-finished
		switch {
		case pg.IsClosed():
		case atLarge:
			closeNow(pg)
		default: // the cut may have come just after the answer
			_ = pg.Conn().SetDeadline(time.Time{})
		}
	}
}

func (p patience) interrupt(ctx context.Context, pg *pgconn.PgConn, answered <-chan struct{}) (atLarge bool) {
	if ctx.Err() == context.DeadlineExceeded && closedWithin(answered, p.slack) {
		return false
	}
	give := time.Now().Add(p.give)
	acknowledged := func() bool { return true }
	if p.cancel && !closedWithin(answered, 0) {
		acknowledged = cancelStatement(pg)
	}
	if !closedWithin(answered, time.Until(give)) {
		// pgx takes the failed read for the end of the connection, and sends a
		// cancel request of its own before it closes the socket.
		_ = pg.Conn().SetDeadline(time.Unix(1, 0))
	}
	<-answered
	return !acknowledged()
}

// cancelStatement asks the server to cancel the statement that runs on pg. The
// function it returns waits until the server has done what it was asked, and
// reports whether that is certain: a request that is still under way would hit
// the connection's next statement, whosever that is.
func cancelStatement(pg *pgconn.PgConn) (acknowledged func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
	failed := make(chan bool, 1)
	go func() {
		err := pg.CancelRequest(ctx)
		// pgx keeps it to itself if nothing came back.
		failed <- err != nil || ctx.Err() != nil
	}()
	return func() bool {
		defer cancel()
		if pg.IsClosed() {
			cancel() // then it does not matter
		}
		return !<-failed
	}
}

func closeNow(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = pg.Close(ctx) // the server frees what is on it either way
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
