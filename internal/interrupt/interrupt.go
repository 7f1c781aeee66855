// Package interrupt ends messages on the wire whose context has ended.
//
// pgx, left to itself, closes the connection at that moment. That would free a
// lock under those who hold it, and cost the pool a connection for each wait
// that reaches its deadline.
package interrupt

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A Patience says what happens to a message once its ctx ends.
type Patience struct {
	Slack  time.Duration   // after a deadline that the server knows as well: let it answer first
	Cancel bool            // then ask the server to cancel the statement
	Give   time.Duration   // then cut the connection if it has not answered within this
	Gone   <-chan struct{} // counted from when this is closed, if not nil
}

// A Watch ends a message on the wire once ctx has ended, as its patience says.
// It is used for one message after the other, and costs a message whose ctx
// does not end next to nothing: less, if it is kept.
type Watch struct {
	ctx      context.Context
	pg       *pgconn.PgConn
	patience Patience
	stop     func() bool // nil where ctx has no end
	kept     bool        // for several messages with the same ctx

	mu       sync.Mutex
	ended    bool          // guarded by mu: ctx has, and it is kept
	busy     bool          // guarded by mu: a message is on its way, and it is kept
	over     bool          // guarded by mu: the answer is there
	answered chan struct{} // guarded by mu: made by the interrupt, closed when the answer is there
	finished chan struct{} // guarded by mu: closed when nothing of the interrupt is left
	atLarge  bool          // a cancel request may still reach the server; known when finished
}

// Keep makes the watch ready for several messages on pg whose ctx is this one,
// or one that ends with it, until Release.
func (w *Watch) Keep(ctx context.Context, pg *pgconn.PgConn) {
	if ctx.Done() == nil {
		return
	}
	w.mu.Lock() // end may still be on its way from an earlier Keep
	w.ctx, w.pg, w.kept, w.ended, w.busy = ctx, pg, true, false, false
	w.mu.Unlock()
	w.stop = context.AfterFunc(ctx, w.end)
}

// Release undoes Keep, when no message is on its way.
func (w *Watch) Release() {
	if w.kept {
		w.stop()
		w.kept = false
	}
}

// Keeps reports whether the watch is kept for ctx, and free for a message.
func (w *Watch) Keeps(ctx context.Context) bool {
	if !w.kept || ctx.Done() != w.ctx.Done() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.busy
}

// end is called when the ctx ends that the watch is kept for.
func (w *Watch) end() {
	w.mu.Lock()
	first, busy := !w.ended, w.busy
	w.ended = true
	w.mu.Unlock()
	if first && busy { // and it is until this interrupt has finished
		w.interrupt()
	}
}

// Begin watches over a message that is about to be sent on pg. If the watch is
// kept, that is for a ctx which ends with this one.
func (w *Watch) Begin(ctx context.Context, pg *pgconn.PgConn, p Patience) {
	if w.kept {
		w.mu.Lock()
		w.patience, w.busy = p, true
		w.over, w.answered, w.finished, w.atLarge = false, nil, nil, false
		ended := w.ended
		w.mu.Unlock()
		if ended {
			go w.interrupt()
		}
		return
	}
	w.stop = nil
	if ctx.Done() == nil {
		return
	}
	w.ctx, w.pg, w.patience = ctx, pg, p
	w.over, w.answered, w.finished, w.atLarge = false, nil, nil, false
	w.stop = context.AfterFunc(ctx, w.interrupt)
}

// End is called when the answer is there. When it returns, nothing of the
// interrupt can reach a later message; in the worst case the connection is
// closed then.
func (w *Watch) End() {
	if w.kept {
		w.mu.Lock()
		if !w.ended {
			w.busy = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		w.endInterrupt()
		w.mu.Lock()
		w.busy = false
		w.mu.Unlock()
		return
	}
	if w.stop == nil || w.stop() {
		return
	}
	w.endInterrupt()
}

// endInterrupt waits for the end of the interrupt, which has begun, or is about
// to.
func (w *Watch) endInterrupt() {
	w.mu.Lock()
	w.over = true
	if w.finished == nil {
		w.finished = make(chan struct{})
	}
	answered, finished := w.answered, w.finished
	w.mu.Unlock()
	if answered != nil {
		close(answered)
	}
	<-finished // even if it has not begun, or else it could take the next message for this one
	switch {
	case w.pg.IsClosed():
	case w.atLarge:
		CloseNow(w.pg)
	default: // the cut may have come just after the answer
		_ = w.pg.Conn().SetDeadline(time.Time{})
	}
}

func (w *Watch) interrupt() {
	w.mu.Lock()
	if w.finished == nil {
		w.finished = make(chan struct{})
	}
	defer close(w.finished)
	if w.over {
		w.mu.Unlock()
		return
	}
	answered := make(chan struct{})
	w.answered = answered
	w.mu.Unlock()
	w.atLarge = w.patience.interrupt(w.ctx, w.pg, answered)
}

func (p Patience) interrupt(ctx context.Context, pg *pgconn.PgConn, answered <-chan struct{}) (atLarge bool) {
	if ctx.Err() == context.DeadlineExceeded && ClosedWithin(answered, p.Slack) {
		return false
	}
	give := time.Now().Add(p.Give)
	acknowledged := func() bool { return true }
	if p.Cancel && !ClosedWithin(answered, 0) {
		acknowledged = cancelStatement(pg)
	}
	if p.Gone != nil {
		select {
		case <-answered:
		case <-p.Gone:
			give = time.Now().Add(p.Give)
		}
	}
	if !ClosedWithin(answered, time.Until(give)) {
		// pgx takes the failed read for the end of the connection, and sends a
		// cancel request of its own before it closes the socket.
		_ = pg.Conn().SetDeadline(time.Unix(1, 0))
	}
	<-answered
	return !acknowledged()
}

// cancelTimeout bounds the wait for the server's word that it has dealt with a
// cancel request.
const cancelTimeout = 5 * time.Second

// cancelStatement asks the server to cancel the statement that runs on pg. The
// function it returns waits until the server has done what it was asked, and
// reports whether that is certain: a request that is still under way would hit
// the connection's next statement, whosever that is.
func cancelStatement(pg *pgconn.PgConn) (acknowledged func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
	failed := make(chan bool, 1)
	go func() {
		err := pg.CancelRequest(ctx)
		failed <- err != nil || ctx.Err() != nil // pgx keeps it to itself if nothing came back
	}()
	return func() bool {
		defer cancel()
		if pg.IsClosed() {
			cancel() // then it does not matter
		}
		return !<-failed
	}
}

// CloseNow closes pg, and with it the session: the server frees what is on it
// even if the goodbye does not arrive.
func CloseNow(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = pg.Close(ctx)
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
