package txlock

import (
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// every is how often the session of a holder is looked at.
const every = time.Second

// watch looks after the session of one holder. It ends fn's ctx when the session
// is gone, and the session, if it can, when fn outstays MaxHold and Grace. The zero watch
// looks after nothing.
type watch struct {
	mu   sync.Mutex
	conn Conn // guarded by mu; nil when the watch is over
	ctx  *nesting.Context
	lost bool        // guarded by mu
	next *time.Timer // guarded by mu: the next look at the session
	cut  *time.Timer // nil where the session does not end
}

// start begins the watch. If most is not 0, the session ends after it.
func (w *watch) start(conn Conn, ctx *nesting.Context, most time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.ctx = conn, ctx
	w.next = time.AfterFunc(every, w.look)
	if most > 0 {
		w.cut = time.AfterFunc(most, w.end)
	}
}

// stop ends the watch, and reports whether the session was seen to be gone. Later
// calls report the same.
func (w *watch) stop() (lost bool) {
	if w.cut != nil {
		w.cut.Stop()
	}
	w.mu.Lock() // waits for a look at the session, or its end, that is under way
	defer w.mu.Unlock()
	if w.conn != nil {
		w.next.Stop()
	}
	w.conn = nil
	return w.lost
}

// look looks at the session. The next look comes later.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.conn == nil || w.lost:
	case w.conn.Lost():
		w.lost = true
		w.ctx.End(lockerr.ErrLost)
	default:
		w.next.Reset(every)
	}
}

// end ends the session. Where it cannot, fn has the lock until it returns.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil && w.conn.Cut() {
		w.lost = true
		w.ctx.End(lockerr.ErrLost)
	}
}
