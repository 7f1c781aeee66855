package txlock

import (
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/rounds"
)

// watch looks after the session of one holder. It ends fn's ctx when the session
// is gone, and the session, if it can, when fn outstays MaxHold and Grace. The zero watch
// looks after nothing.
type watch struct {
	place rounds.Place

	mu   sync.Mutex
	conn Conn // guarded by mu; nil when the watch is over
	ctx  *nesting.Context
	lost bool // guarded by mu
	cut  *time.Timer
}

// start begins the watch. If most is not 0, the session ends after it.
func (w *watch) start(all *rounds.Rounds, conn Conn, ctx *nesting.Context, most time.Duration) {
	w.conn, w.ctx = conn, ctx
	if most > 0 {
		w.cut = time.AfterFunc(most, w.end)
	}
	all.Enter(&w.place, w)
}

// stop ends the watch, and reports whether the session was seen to be gone. Later
// calls report the same.
func (w *watch) stop() (lost bool) {
	if w.cut != nil {
		w.cut.Stop()
	}
	w.place.Leave()

	w.mu.Lock() // waits for a look at the session, or its end, that is under way
	defer w.mu.Unlock()
	w.conn = nil
	return w.lost
}

// Look is rounds.Looker's.
func (w *watch) Look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil && !w.lost && w.conn.Lost() {
		w.lost = true
		w.ctx.End(lockerr.ErrLost)
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
