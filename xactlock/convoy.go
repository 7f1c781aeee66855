package xactlock

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"
)

// convoy is several Execs for one key that go in one message. They come from
// goroutines that may give up one by one, so it has a goroutine of its own.
type convoy struct {
	line   *execLine
	execs  []*execution // the first one led
	ctx    context.Context
	cancel context.CancelFunc // once all have given up
	sent   atomic.Bool        // and the parameters are not needed any more
	ended  int                // guarded by the queue's mu: how many have
}

// newConvoy returns a convoy of execs. To a tracer of pgx, it is the first
// one's.
func newConvoy(l *execLine, execs []*execution) *convoy {
	ctx, cancel := context.WithCancel(context.WithoutCancel(execs[0].ctx))
	return &convoy{line: l, execs: execs, ctx: ctx, cancel: cancel}
}

// run sends the convoy on conn, gives conn back, and tells everybody what has
// become of them.
func (v *convoy) run(conn *sql.Conn) {
	defer v.cancel()
	p := pipeline{parts: make([]part, 0, len(v.execs)), sent: &v.sent}
	for _, e := range v.execs {
		p.add(e, patienceOfExec)
	}
	var took time.Duration
	_ = conn.Raw(func(driverConn any) error {
		var s session
		if !s.unwrap(driverConn) || pretends(s.pg) != nil {
			return nil
		}
		took = v.send(&p, &s)
		return s.giveBack()
	}) // an error says that the connection is closed, which p knows
	_ = conn.Close() // likewise
	v.line.disband(v, p.parts, took)
}

// send sends p on s. A parameter may panic while it is encoded; that belongs
// into the goroutine of its caller. Nothing is sent then, and each goes once
// more by itself.
func (v *convoy) send(p *pipeline, s *session) (took time.Duration) {
	defer func() {
		if !v.sent.Load() && recover() != nil {
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
	e.convoyChanged(func(v *convoy) {
		if v.ended++; v.ended == len(v.execs) {
			v.cancel()
		}
	})
	timer := time.NewTimer(patienceJoined)
	defer timer.Stop()
	for e.stageNow() == joined {
		select {
		case <-e.wake:
		case <-timer.C:
			e.convoyChanged(func(v *convoy) {
				if v.sent.Load() {
					e.to(left)
				} else {
					v.cancel() // nothing has happened, and nothing will
				}
			})
		}
	}
}

// convoyChanged calls f with the convoy that e is in, if it is in one.
func (e *execution) convoyChanged(f func(v *convoy)) {
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
	l.again(again...)
	l.next()
}
