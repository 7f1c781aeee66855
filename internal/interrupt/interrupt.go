// Package interrupt ends a message on the wire when the message's context ends.
//
// pgx alone closes the connection at that moment. That would free a
// lock under its holder, and cost the pool a connection for each wait that
// reaches its deadline.
package interrupt

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Policy says what happens to a message once its ctx has ended.
type Policy struct {
	// DeadlineGrace is for a deadline that the server knows as well: the
	// server may answer within it, and nothing is done.
	DeadlineGrace time.Duration

	// CancelRequest asks the server to cancel the statement that runs.
	CancelRequest bool

	// DeadlineDelay is how long the server has for its answer then. After it,
	// the connection is cut.
	DeadlineDelay time.Duration

	// BeforeCut, if it is not nil, is called just before that, and before the watch's
	// Stop closes the connection. Stop waits for it.
	BeforeCut func()
}

// A round trip of 200 ms must not cost a connection: a cancel request takes up to four
// of them before its answer is there, where there is TLS.
var (
	// Waiting is for a wait for a lock, whose limit the server knows.
	Waiting = Policy{DeadlineGrace: 500 * time.Millisecond, CancelRequest: true, DeadlineDelay: 2 * time.Second}

	// Ending is for what ends something, also where the caller's ctx has ended.
	Ending = Policy{DeadlineDelay: 5 * time.Second}
)

// A Watch ends one message on the wire once the message's ctx has ended.
type Watch struct {
	ctx        context.Context
	conn       Conn
	policy     Policy
	unregister func() bool

	idle atomic.Bool // the message's user does something else

	mu         sync.Mutex
	stopped    bool          // guarded by mu: the answer is there
	answered   chan struct{} // guarded by mu: made by the interrupt when it begins, closed by Stop
	finished   chan struct{} // closed when the interrupt has nothing more to do; made with answered
	lateCancel bool          // a cancel request may still reach the server; set before finished is closed
}

// Start watches over a message that is about to be sent on conn. The caller
// calls Stop when the answer is there, or when it will not be waited for, in a
// defer: a panic may come from a parameter of the message.
//
// It returns nil, which needs no Stop and allows it, where ctx cannot end.
func Start(ctx context.Context, conn Conn, p Policy) *Watch {
	if ctx.Done() == nil {
		return nil
	}
	w := &Watch{ctx: ctx, conn: conn, policy: p}
	w.unregister = context.AfterFunc(ctx, w.interrupt)
	return w
}

// Stop ends the watch. When it returns, nothing of the interrupt can reach a
// later message. If that cannot be had otherwise, the connection is closed.
func (w *Watch) Stop() {
	if w == nil || w.unregister() {
		return
	}
	w.mu.Lock()
	begun := w.answered != nil
	w.stopped = true
	w.mu.Unlock()
	if !begun { // and will not, even if it is about to
		return
	}
	close(w.answered)
	<-w.finished
	switch {
	case w.conn.IsClosed():
	case w.lateCancel:
		w.beforeCut()
		closeNow(w.conn)
	default: // the cut may have come just after the answer
		_ = w.conn.Conn().SetDeadline(time.Time{}) // fails only on a closed connection
	}
}

// Idle notes whether the user of an answer that is open does something else than to
// read it. The connection is not cut meanwhile: the server may have answered long ago.
func (w *Watch) Idle(idle bool) {
	if w != nil {
		w.idle.Store(idle)
	}
}

// interrupt is called when ctx has ended. It does nothing if Stop has come first.
func (w *Watch) interrupt() {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return
	}
	w.answered, w.finished = make(chan struct{}), make(chan struct{})
	answered := w.answered
	w.mu.Unlock()
	defer close(w.finished)
	w.lateCancel = w.end(answered)
}

// end ends the message, unless it is answered first. It reports whether a cancel
// request may still reach the server.
func (w *Watch) end(answered <-chan struct{}) (lateCancel bool) {
	if w.ctx.Err() == context.DeadlineExceeded && ClosedWithin(answered, w.policy.DeadlineGrace) {
		return false
	}
	cut := time.Now().Add(w.policy.DeadlineDelay)
	var requests *Requests
	if w.policy.CancelRequest && !ClosedWithin(answered, 0) {
		requests = RequestCancelUntil(w.conn, answered, cut)
	}
	for !ClosedWithin(answered, time.Until(cut)) && w.idle.Load() {
		cut = time.Now().Add(w.policy.DeadlineDelay)
	}
	if !ClosedWithin(answered, 0) {
		w.beforeCut()
		// pgx takes the failed read for the end of the connection, and sends a
		// cancel request of its own before it closes the socket.
		if err := w.conn.Conn().SetDeadline(time.Unix(1, 0)); err != nil {
			_ = w.conn.Conn().Close() // it is closed, or has no deadlines
		}
	}
	<-answered
	return requests != nil && !(w.conn.IsClosed() || requests.Done(cancelTimeout))
}

func (w *Watch) beforeCut() {
	if w.policy.BeforeCut != nil {
		w.policy.BeforeCut()
	}
}

// cancelTimeout bounds the wait for the server's word that it has dealt with cancel
// requests, once the message is answered.
const cancelTimeout = 5 * time.Second
