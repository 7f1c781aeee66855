package xactlock

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"
)

// convoy is several Execs for one key that go in one message. They come from
// goroutines that may give up one by one, so it has a goroutine of its own.
//
// If one gives up and the answer does not come at once, the server is asked to
// cancel the statement that runs. If that is another's, which nobody wanted to
// end, it goes once more by itself: nothing of it is committed.
type convoy struct {
	line  *execLine
	execs []*execution // the first one led
	sent  atomic.Bool  // and the parameters are not needed any more

	ctx    context.Context // ends when the server is to be asked to cancel
	cancel context.CancelFunc
	gone   chan struct{} // closed when nobody waits any more

	ended     int  // guarded by the queue's mu: how many have given up
	abandoned bool // guarded by the queue's mu: gone is closed
}

// newConvoy returns a convoy of execs. To a tracer of pgx, it is the first
// one's.
func newConvoy(l *execLine, execs []*execution) *convoy {
	ctx, cancel := context.WithCancel(context.WithoutCancel(execs[0].ctx))
	return &convoy{line: l, execs: execs, ctx: ctx, cancel: cancel, gone: make(chan struct{})}
}

// run sends the convoy on conn, gives conn back, and tells everybody what has
// become of them.
func (v *convoy) run(conn *sql.Conn) {
	defer v.cancel()
	p := pipeline{parts: make([]part, 0, len(v.execs)), convoy: v}
	for _, e := range v.execs {
		p.add(e, patienceOfExec)
	}
	var took time.Duration
	_ = conn.Raw(func(driverConn any) error {
		var s session
		if !s.unwrap(driverConn) || s.pretends() != nil {
			return nil // each will find that out by itself
		}
		took = v.send(&p, &s)
		return s.giveBack()
	}) // an error says that the connection is closed, which p knows
	_ = conn.Close() // likewise
	v.line.disband(v, p.parts, took)
}

// send sends p on s. A parameter may panic while it is encoded, which belongs
// into the goroutine of its caller. Then each goes once more by itself, and the
// connection is closed before a goodbye can flush what has been written.
func (v *convoy) send(p *pipeline, s *session) (took time.Duration) {
	defer func() {
		if !v.sent.Load() && recover() != nil {
			_ = s.pg.Conn().Close()
			s.close()
		}
	}()
	return p.run(v.ctx, s)
}

// patienceJoined is how long an Exec whose ctx has ended waits for the others
// in its convoy. It is longer than what an interrupt takes, which comes where
// all have given up.
const patienceJoined = 1500 * time.Millisecond

// leave waits for the answer to a message that is on its way though ctx has
// ended, but not for ever.
func (e *execution) leave() {
	e.inConvoy(func(v *convoy) {
		v.ended++
		switch v.ended {
		case 1:
			time.AfterFunc(pipelined.Slack, v.cancel)
		case len(v.execs):
			v.abandon()
		}
	})
	timer := time.NewTimer(patienceJoined)
	defer timer.Stop()
	for e.stageNow() == joined {
		select {
		case <-e.wake:
		case <-timer.C:
			e.inConvoy(func(v *convoy) {
				if v.sent.Load() {
					e.to(left)
				} else {
					v.abandon() // nothing has happened yet, and nothing will
				}
			})
		}
	}
}

// abandon has the connection cut if the answer does not come soon. The caller
// holds mu.
func (v *convoy) abandon() {
	if !v.abandoned {
		v.abandoned = true
		close(v.gone)
	}
	v.cancel()
}

// inConvoy calls f with the convoy that e is in, if it is in one, and holds mu.
func (e *execution) inConvoy(f func(v *convoy)) {
	e.line.queue.mu.Lock()
	defer e.line.queue.mu.Unlock()
	if e.stage == joined {
		f(e.convoy)
	}
}

// disband ends a convoy.
func (l *execLine) disband(v *convoy, parts []part, took time.Duration) {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	l.underWay--
	ok := true
	var again []*execution
	for _, t := range parts {
		e := t.exec
		ok = ok && !t.fate.slow && !t.fate.alone
		switch {
		case e.stage == left:
		case t.fate.again, t.fate.slow:
			e.alone, e.exclusive = t.fate.alone || t.fate.slow, t.fate.slow
			again = append(again, e)
		default:
			e.fate = t.fate
			e.to(answered)
		}
	}
	l.learn(len(parts), took, ok)
	if len(again) > 0 {
		l.again(again...)
	}
	l.next()
}
