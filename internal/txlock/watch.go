package txlock

import (
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// watchEvery is how often the sessions of all holders are looked at.
const watchEvery = time.Second

// watch looks after the session of one holder. It ends fn's ctx when the session
// is gone, and the session when fn outstays MaxHold and Grace. The zero watch
// looks after nothing.
type watch struct {
	watchers       *Watchers
	next, previous *watch // guarded by watchers.mu

	mu   sync.Mutex
	conn Conn // guarded by mu; nil when the watch is over
	ctx  *nesting.Context
	lost bool // guarded by mu
	cut  *time.Timer
}

// Watchers is watches that are looked at together, by one goroutine that starts
// every second as long as there are any. The zero Watchers is ready for use.
type Watchers struct {
	mu    sync.Mutex
	first *watch // guarded by mu
	due   bool   // guarded by mu: they will be looked at
}

// start begins the watch. If most is not 0, the session ends after it.
func (w *watch) start(all *Watchers, conn Conn, ctx *nesting.Context, most time.Duration) {
	w.watchers, w.conn, w.ctx = all, conn, ctx
	if most > 0 {
		w.cut = time.AfterFunc(most, w.end)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	w.next = all.first
	if w.next != nil {
		w.next.previous = w
	}
	all.first = w
	if !all.due {
		all.due = true
		time.AfterFunc(watchEvery, all.look)
	}
}

// stop ends the watch, and reports whether the session was seen to be gone. With
// look it looks once more. Later calls report the same.
func (w *watch) stop(look bool) (lost bool) {
	if w.watchers == nil {
		return w.lost
	}
	if w.cut != nil {
		w.cut.Stop()
	}
	w.watchers.remove(w)
	w.watchers = nil

	w.mu.Lock() // waits for a look at the session, or its end, that is under way
	defer w.mu.Unlock()
	if look && w.conn != nil && w.conn.Lost() {
		w.lost = true
	}
	w.conn = nil
	return w.lost
}

func (all *Watchers) remove(w *watch) {
	all.mu.Lock()
	defer all.mu.Unlock()
	switch {
	case w.previous != nil:
		w.previous.next = w.next
	case all.first == w:
		all.first = w.next
	}
	if w.next != nil {
		w.next.previous = w.previous
	}
	w.next, w.previous = nil, nil
}

func (all *Watchers) look() {
	for _, w := range all.current() {
		w.look()
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.due = all.first != nil; all.due {
		time.AfterFunc(watchEvery, all.look)
	}
}

// current returns all watches.
func (all *Watchers) current() []*watch {
	all.mu.Lock()
	defer all.mu.Unlock()
	var current []*watch
	for w := all.first; w != nil; w = w.next {
		current = append(current, w)
	}
	return current
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil && !w.lost && w.conn.Lost() {
		w.lost = true
		w.ctx.End(lockerr.ErrLost)
	}
}

// end ends the session.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Cut()
		w.lost = true
		w.ctx.End(lockerr.ErrLost)
	}
}
