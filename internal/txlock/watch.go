package txlock

import (
	"context"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// watchEvery is how often a holder's session is looked at. A call that is over
// sooner is never looked at, and costs a timer that does not fire.
const watchEvery = time.Second

// watch looks after the session of one holder. It ends fn's ctx when the session
// is gone, and the session when fn outstays MaxHold and Grace.
type watch struct {
	conn Conn
	end  context.CancelCauseFunc // ends fn's ctx
	cut  time.Time               // when to cut the session; zero means never

	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil when the watch is over
	lost  bool        // guarded by mu
}

func startWatch(conn Conn, end context.CancelCauseFunc, most time.Duration) *watch {
	w := &watch{conn: conn, end: end}
	if most > 0 {
		w.cut = time.Now().Add(most)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.next(), w.look)
	return w
}

// next returns when to look again.
func (w *watch) next() time.Duration {
	if w.cut.IsZero() {
		return watchEvery
	}
	return min(watchEvery, time.Until(w.cut))
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	if !w.cut.IsZero() && !time.Now().Before(w.cut) {
		w.conn.Cut()
		w.lost = true
	}
	if w.lost = w.lost || w.conn.Lost(); w.lost {
		w.end(lockerr.ErrLost)
		return
	}
	w.timer.Reset(w.next())
}

// stop ends the watch, and reports whether the session was seen to be gone. A
// call that was long enough to be watched is looked at once more.
func (w *watch) stop(held time.Duration) (lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
		w.lost = w.lost || held >= watchEvery && w.conn.Lost()
	}
	return w.lost
}
