package sessionlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// pinned is the home of a lock that has a session of its own.
type pinned struct {
	own     *conn
	freed   chan struct{} // closed when the lock is given back, which ends the watch
	watched chan struct{} // closed when the watch is over
	leave   func()        // what a Shareable lock has besides is given up by it; nil for another lock
}

// pin returns the lock that c holds, and begins to watch it. pulse is how often
// the server is asked. leave is called when the lock is free; a lock that has one
// shows its connection to no caller.
func pin(c *conn, pulse time.Duration, leave func()) *Lock {
	p := &pinned{own: c, freed: make(chan struct{}), watched: make(chan struct{}), leave: leave}
	k := newLock(p, c.pool, c.granted, c.session, c.besides)
	k.callers, k.watched = c.callers, p.watched
	k.besides.keep(k)
	go p.watch(k, pulse)
	return k
}

func (p *pinned) conn() *sql.Conn {
	if p.leave != nil {
		return nil
	}
	return p.own.conn
}

func (p *pinned) use(ctx context.Context, k *Lock, f func(sender) error) error {
	return p.own.conn.Raw(func(any) error {
		return f(func(m locksql.Message) (pgsession.Answer, error) {
			return send(ctx, k.session, holding, m, k.besides.lose)
		})
	})
}

// isHeld is home's.
func (p *pinned) isHeld(k *Lock) error { return p.look(k, true, unlockPatience, p.rawSoon) }

// rawSoon is Raw of the connection, for which a statement of the caller's that runs has
// unlockPatience to end. It is cancelled then.
func (p *pinned) rawSoon(f func(driverConn any) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	policy, told := telling(leaving, p.own.besides.lose)
	over := sync.OnceFunc(interrupt.Start(ctx, p.own.session.PG(), policy).Stop)
	defer over()
	return p.own.conn.Raw(func(driverConn any) error {
		if over(); *told {
			p.own.session.Discard()
		}
		return f(driverConn)
	})
}

func (p *pinned) cut(*Lock) {
	p.own.session.Interrupt()
	p.own.session.Cut()
	if p.leave != nil {
		p.leave()
	}
}

var errLeftOpen = errors.New("a transaction or rows were left open, and the session was ended")

func (p *pinned) free(k *Lock) error {
	close(p.freed)
	if p.leave != nil {
		defer p.leave()
	}
	k.besides.drop(k)
	var err error
	left := false
	rawErr := p.rawSoon(func(any) error {
		left = !k.session.Closed() && !k.session.Usable()
		if err = p.releaseSession(k); err != nil {
			end(k.session, err, k.besides.lose)
		}
		return nil
	})
	<-p.watched
	if errors.Is(rawErr, sql.ErrConnDone) {
		p.connClosed()
		return k.lostBy(errConnClosed)
	}
	returned := p.giveBack(err != nil)
	if !left {
		interrupt.ClosedWithin(returned, poolPatience)
	}
	return err
}

// giveBack gives the connection back to the pool, or has the pool forget it,
// and closes the channel when that is done: database/sql waits for whatever
// rows and transaction the caller has open on the connection to be closed.
func (p *pinned) giveBack(dead bool) (returned <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if dead {
			pgsession.Forget(p.own.conn)
		}
		if !p.own.callers {
			_ = p.own.conn.Close() // fails on a connection that Raw has closed
		}
	}()
	return done
}

// releaseSession unlocks on the session, and returns an error if the session
// must not be used any more.
func (p *pinned) releaseSession(k *Lock) error {
	s := k.session
	switch {
	case errors.Is(k.Err(), ErrLost):
		return k.lost()
	case s.Closed():
		return k.lostBy(errDead)
	case !s.Usable():
		return fmt.Errorf("sessionlock: %s: %w", k.key, errLeftOpen)
	}
	held, err := p.own.unlock()
	switch {
	case err != nil && s.Closed():
		return k.lostBy(err)
	case err != nil:
		return fmt.Errorf("sessionlock: %s: unlock: %w", k.key, err)
	case !held:
		return k.lostBy(errNotHeld)
	}
	return nil
}

// watch calls lose when the lock is lost, and returns when it is lost or given
// back: with Options.MinHold that is later than Unlock, and the server must not
// take the session for dead until then. pulse is how often the server is asked.
// There are three ways to notice, from the cheapest on.
//
// The socket is looked at every Options.Check, for whether the other side has
// closed it. On Linux that is a question to the kernel alone, which disturbs no
// one. Elsewhere, and where the socket is not to be had because a dialer of the
// caller's own has wrapped it, pgx is made to read what may be there, for a
// millisecond.
//
// Then the connection is taken, as for a statement of the caller's, to see
// whether pgx has given it up, or the caller has closed it. This waits for a
// statement that is running, or for whatever the caller does in a Raw of its own,
// and the socket is looked at meanwhile.
//
// Every ten seconds, finally, the server is asked whether the session has the
// lock, for what a socket cannot show: a network that swallows everything, or
// a DISCARD ALL.
func (p *pinned) watch(k *Lock, pulse time.Duration) {
	defer close(p.watched)
	r := newRhythm(k.opts.check(), pulse)
	defer r.stop()
	for {
		ask, ok := r.next(p.freed)
		if !ok {
			return
		}
		looked := make(chan error, 1)
		go func() { looked <- p.look(k, ask, answerWithin(pulse), p.own.conn.Raw) }()
		if err := p.await(k, looked, r.looks.C); err != nil {
			k.lose(err)
			return
		}
	}
}

// await returns what a look returns, or why the lock is lost while that waits for
// the connection: it finds the session ended then.
func (p *pinned) await(k *Lock, looked <-chan error, looks <-chan time.Time) error {
	for {
		select {
		case err := <-looked:
			return err
		case <-looks:
			if hungUp, _ := k.session.PeerClosed(); hungUp {
				return errHungUp
			}
		}
	}
}

// isFreed reports whether the lock is being given back.
func (p *pinned) isFreed() bool {
	select {
	case <-p.freed:
		return true
	default:
		return false
	}
}

// look returns why the lock is lost, or nil. If ask is true, the server is
// asked, and gets timeout for its answer. raw takes the connection.
func (p *pinned) look(k *Lock, ask bool, timeout time.Duration, raw func(func(driverConn any) error) error) error {
	hungUp, known := k.session.PeerClosed()
	if hungUp {
		return errHungUp
	}
	var lost error
	err := raw(func(any) error {
		switch s := k.session; {
		case p.isFreed(): // while this waited for its turn
		case s.Closed():
			lost = errDead
		case s.PG().IsBusy(): // with rows that are open
		case ask:
			lost = p.ask(k, timeout)
		case !known:
			lost = s.Read()
		}
		return nil
	})
	if err != nil {
		p.connClosed()
		return errConnClosed
	}
	return lost
}

// connClosed ends the session of a connection that the caller has closed: the next
// user of the connection would have the lock.
func (p *pinned) connClosed() {
	p.own.besides.lose(errConnClosed)
	p.own.session.Cut()
}

// ask asks the server for the lock. In a transaction of the caller's it only
// asks for an answer: the statement could fail there, or be the one that takes
// the transaction's snapshot.
func (p *pinned) ask(k *Lock, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	m, held := locksql.Select("select "+locksql.Held(k.key)), yes
	if k.session.InTransaction() {
		m = locksql.One(locksql.Statement{SQL: "-- is the session there?"})
		held = func(pgsession.Answer) bool { return true }
	}
	answer, err := send(ctx, k.session, checking, m, k.besides.lose)
	if err == nil && !held(answer) {
		return errNotHeld
	}
	return lossOf(k.session, err)
}

// lossOf returns why a lock is lost after a question about it, or nil. That the
// question was refused is an answer: where statements are cancelled, or pg_locks may
// not be read, there is a session all the same.
func lossOf(s *pgsession.Session, err error) error {
	if pgsession.GoesOn(err) && !s.Closed() {
		return nil
	}
	return err
}
