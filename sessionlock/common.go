package sessionlock

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// common is the session that the Shareable locks of one Locker live on. It has a
// connection as long as there are any.
//
// A call that has to wait for its lock waits on a connection of its own, and the
// lock stays there: it could not be handed over to another session without a gap.
type common struct {
	turns turns
	busy  chan struct{} // holds a token while the session is in use

	pinned  *sql.Conn // guarded by busy; nil where there is no lock
	session *pgsession.Session
	besides *holdings         // the locks of the session
	saved   []locksql.Setting // the session's settings as they were
	held    map[hashkey.Key]count
	over    chan struct{} // closed at the end of the session's watch; nil where there is none
}

// count is how often the session has one key.
type count struct {
	locks int // that are held, or about to be; at least one
	left  int // times that a failed try may have left it besides

	// inTurn is when it was last granted while no other session waited for it. The
	// server grants a session what it has once more, past all waiters, and to look
	// for them is not cheap.
	inTurn time.Time
}

func newCommon() *common {
	return &common{busy: make(chan struct{}, 1)}
}

// conn is nil: the session is not one lock's own.
func (c *common) conn() *sql.Conn { return nil }

// use is home's. A message makes the other locks of the session wait, so it is
// cancelled after unlockPatience, and not when ctx ends: if it is not answered then,
// all of them are lost.
func (c *common) use(ctx context.Context, k *Lock, f func(sender) error) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-k.session.PG().CleanupDone(): // a call may be waiting for another one
		k.lose(errDead)
		return errDead
	case <-ctx.Done():
		return ctx.Err()
	}
	return f(func(m locksql.Message) (pgsession.Answer, error) {
		ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
		defer cancel()
		answer, err := send(ctx, k.session, holding, m, k.besides.lose)
		if k.session.Closed() {
			c.lose(err)
		}
		return answer, lockerr.Because(ctx, err)
	})
}

// useOf calls f while nothing else uses the session, for as long as c has session:
// without it, it returns errDead. It waits for its turn however long that takes.
func (c *common) useOf(session *pgsession.Session, f func() error) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-session.PG().CleanupDone(): // a call may be waiting for another one
		return errDead
	}
	if c.session != session || session.Closed() {
		return errDead
	}
	return f()
}

// try asks for the lock of p.key without waiting, and returns it if it is granted.
// dead reports whether the session has ended meanwhile.
//
// If ctx ends first, the question goes on without the caller: to end it would end
// the session.
func (c *common) try(ctx context.Context, p *pool) (k *Lock, dead bool, err error) {
	select {
	case c.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	asked := false
	defer func() {
		if !asked {
			<-c.busy
		}
	}()
	settings := []locksql.Setting(nil)
	if c.session == nil || c.session.Closed() {
		c.lose(errDead)
		if err := c.open(ctx, p); err != nil {
			return nil, errors.Is(err, driver.ErrBadConn), err
		}
		settings = p.settings
	}
	asked = true
	type answer struct {
		lock *Lock
		dead bool
		err  error
	}
	answered := make(chan answer)
	go func() {
		defer func() { <-c.busy }()
		k, dead, err := c.ask(p, settings)
		select {
		case answered <- answer{k, dead, err}:
		case <-ctx.Done():
			if k != nil {
				k.besides.drop(k)
				_ = c.freeOne(p.key, p.opts.Shared) // an error means that it is not held
			}
		}
	}()
	select {
	case a := <-answered:
		return a.lock, a.dead, a.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// open takes a connection. The caller uses the session.
func (c *common) open(ctx context.Context, p *pool) error {
	own, err := p.Conn(ctx)
	if err != nil {
		return err
	}
	session := own.(*conn)
	c.pinned, c.session, c.besides, c.held = session.conn, session.session, session.besides, make(map[hashkey.Key]count)
	if !c.session.Usable() {
		c.lose(errDead) // a caller left a transaction open in the pool
		return driver.ErrBadConn
	}
	return nil
}

// ask asks for the lock, gives the session settings if there are any, and gives it
// back if it has no locks then. The caller uses the session. The message has no ctx
// of the call's: it takes no time, and it would not be known after a cancel whether
// the lock was granted.
func (c *common) ask(p *pool, settings []locksql.Setting) (k *Lock, dead bool, err error) {
	granted, err := c.askFor(p, settings)
	switch dead = c.session.Closed(); {
	case dead:
		c.lose(err)
	case granted:
		k = newLock(c, p, p.key, c.session, c.besides)
		k.giveTurn = sync.OnceFunc(func() { c.turns.give(p.key, p.opts.Shared) })
		k.watched = c.session.PG().CleanupDone()
		k.besides.keep(k)
	case len(c.held) == 0:
		c.close(nil)
	}
	return k, dead, err
}

func (c *common) askFor(p *pool, settings []locksql.Setting) (granted bool, err error) {
	n, now := c.held[bare(p.key)], time.Now()
	lock := p.opts.sessionLock(c.session, []hashkey.Key{p.key}, settings)
	if n.locks == 0 {
		n.inTurn = now
	} else if now.Sub(n.inTurn) > acquire.Slice { // it is shared
		n.inTurn = now
		lock.Yield = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	answer, err := send(ctx, c.session, asking, lock.Try(), c.besides.lose)
	switch {
	case err != nil && c.session.Closed():
		return false, err
	case err != nil && n.locks == 0:
		// It was cancelled, perhaps just after the grant.
		forsake(c.session, p.opts.Shared, []hashkey.Key{p.key}, c.besides.lose)
		return false, err
	case err != nil: // it is shared, and the server does not say how often the session has it
		n.left++
		c.held[bare(p.key)] = n
		return false, err
	}
	saved, slot, err := verdict(c.session, answer, c.besides.lose)
	if err != nil || slot < 0 {
		return false, err
	}
	if settings != nil {
		c.saved, c.over = saved, make(chan struct{})
		go c.watch(c.over, p.opts, p.pulse) // which speaks as often as these settings need it
	}
	n.locks++
	c.held[bare(p.key)] = n
	return true, nil
}

// freeOne gives one lock of key back, and with the last lock the connection. The
// caller uses the session.
func (c *common) freeOne(key hashkey.Key, shared bool) error {
	session := c.session
	n := c.held[bare(key)]
	if n.locks--; n.locks > 0 {
		c.held[bare(key)] = n
	} else {
		delete(c.held, bare(key))
	}
	var held bool
	var err error
	if len(c.held) == 0 {
		held, err = unlock(session, shared, key, true, c.saved, c.besides.lose)
	} else if held, err = unlock(session, shared, key, false, nil, c.besides.lose); err == nil && n.locks == 0 {
		forsake(session, shared, slices.Repeat([]hashkey.Key{key}, n.left), c.besides.lose)
	}
	switch {
	case err != nil:
		c.lose(err)
		return err
	case session.Closed():
		c.lose(errDead) // and key is free
	case len(c.held) == 0:
		c.close(nil)
	}
	if !held {
		return errNotHeld
	}
	return nil
}

// close gives the connection back, or has the pool forget it. The caller uses the
// session.
func (c *common) close(lost error) {
	if c.pinned == nil {
		return
	}
	if lost != nil {
		pgsession.Forget(c.pinned)
	}
	_ = c.pinned.Close() // fails on a connection that is forgotten
	if c.over != nil {
		close(c.over)
	}
	c.pinned, c.session, c.besides, c.held, c.over = nil, nil, nil, nil, nil
}

// lose tells all locks of the session that they are lost, and then ends it. The
// caller uses the session.
func (c *common) lose(err error) {
	if c.pinned == nil {
		return
	}
	err = cmp.Or(err, errDead)
	c.besides.lose(err)
	c.session.Discard()
	c.close(err)
}

// watch tells the locks of the session when it is gone, until over is closed.
func (c *common) watch(over <-chan struct{}, o *Options, pulse time.Duration) {
	r := newRhythm(o.check(), pulse)
	defer r.stop()
	for {
		ask, ok := r.next(over)
		if !ok {
			return
		}
		c.busy <- struct{}{}
		select {
		case <-over: // just now
		default:
			if err := c.look(ask, answerWithin(pulse)); err != nil {
				c.lose(err)
			}
		}
		<-c.busy
	}
}

// look returns why the locks are lost, or nil. The caller uses the session.
func (c *common) look(ask bool, timeout time.Duration) error {
	hungUp, known := c.session.PeerClosed()
	switch {
	case hungUp:
		return errHungUp
	case c.session.Closed():
		return errDead
	case !ask && !known:
		return c.session.Read()
	case !ask:
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	answer, err := send(ctx, c.session, checking, locksql.CountHeld(), c.besides.lose)
	if err != nil {
		return lossOf(c.session, err)
	}
	if n, err := strconv.Atoi(first(answer)); err == nil && n < len(c.held) {
		return errNotHeld
	}
	return nil
}

// release frees k, unless that is done.
func (c *common) release(k *Lock) error {
	err := c.useOf(k.session, func() error {
		if !k.besides.drop(k) {
			return errNotHeld
		}
		return c.freeOne(k.key, k.opts.Shared)
	})
	k.besides.drop(k) // if the session has ended
	return err
}

func (c *common) free(k *Lock) error {
	defer k.giveTurn()
	switch err := c.release(k); {
	case errors.Is(k.Err(), ErrLost):
		return k.lost()
	case err == nil:
		return nil
	case errors.Is(err, errNotHeld), errors.Is(err, errDead), !pgsession.GoesOn(err):
		return k.lostBy(err)
	default:
		return fmt.Errorf("sessionlock: %s: unlock: %w", k.key, err)
	}
}

// isHeld is home's.
func (c *common) isHeld(k *Lock) error {
	return c.useOf(k.session, func() error { return c.look(true, unlockPatience) })
}

func (c *common) cut(k *Lock) {
	_ = c.release(k) // an error means that it is not held
	k.giveTurn()
}
