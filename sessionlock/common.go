package sessionlock

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
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
	saved   []setting     // the session's settings as they were
	number  int           // of the locks that the session has, or is about to have
	over    chan struct{} // closed at the end of the session's watch; nil where there is none

	mu    sync.Mutex
	locks map[*Lock]bool // guarded by mu
}

func newCommon() *common {
	return &common{busy: make(chan struct{}, 1), locks: make(map[*Lock]bool)}
}

// conn is nil: the session is not one lock's own.
func (c *common) conn() *sql.Conn { return nil }

// use calls f while nothing else uses the session.
func (c *common) use(ctx context.Context, f func() error) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try asks for the lock of p.key without waiting, and returns the session if it is
// granted. dead reports whether the session has ended meanwhile.
func (c *common) try(ctx context.Context, p *pool) (session *pgsession.Session, dead bool, err error) {
	err = c.use(ctx, func() error {
		settings := []setting(nil)
		if c.session == nil || c.session.Closed() {
			c.lose(errDead)
			if err := c.open(ctx, p); err != nil {
				dead = errors.Is(err, driver.ErrBadConn)
				return err
			}
			settings = p.settings
		}
		granted, err := c.ask(p, settings)
		switch dead = c.session.Closed(); {
		case dead:
			c.lose(err)
		case granted:
			session = c.session
		case c.number == 0:
			c.close(nil)
		}
		return err
	})
	return session, dead, err
}

// open takes a connection. The caller uses the session.
func (c *common) open(ctx context.Context, p *pool) error {
	own, err := p.Conn(ctx)
	if err != nil {
		return err
	}
	c.pinned, c.session = own.(*conn).conn, own.(*conn).session
	if !c.session.Usable() {
		c.session.Discard() // somebody left a transaction open in the pool
		c.lose(errDead)
		return driver.ErrBadConn
	}
	return nil
}

// ask asks for the lock, and gives the session settings if there are any. The
// message has no ctx: it takes no time, and it would not be known after a cancel
// whether the lock was granted.
func (c *common) ask(p *pool, settings []setting) (granted bool, err error) {
	pid := c.session.PG().PID()
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	answer, err := c.session.Send(ctx, asking, p.opts.tryMessage([]hashkey.Key{p.key}, pid, settings))
	if err != nil {
		if !c.session.Closed() && !p.opts.Shared {
			// Somebody has cancelled it, perhaps just after the grant. A lock
			// that is shared may be another holder's as well, and stays until
			// the last lock of the session is freed.
			_, _ = c.session.Send(ctx, leaving, locksql.Forsake(false, p.key)) // an error leaves a session that is seen to be closed
		}
		return false, err
	}
	saved, slot, err := verdict(c.session, answer)
	if err != nil || slot < 0 {
		return false, err
	}
	if settings != nil {
		c.saved = saved
	}
	c.number++
	return true, nil
}

// freeOne gives key back, and with the last lock the connection.
func (c *common) freeOne(session *pgsession.Session, key hashkey.Key, shared bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	return c.use(ctx, func() error {
		if c.session != session || session.Closed() {
			return errDead
		}
		var held bool
		var err error
		if c.number--; c.number > 0 {
			held, err = unlockOne(ctx, session, shared, key)
		} else {
			held, err = unlock(ctx, session, shared, key, c.saved)
		}
		switch {
		case err != nil:
			session.Discard()
			c.lose(err)
			return err
		case c.number == 0:
			c.close(nil)
		}
		if !held {
			return errNotHeld
		}
		return nil
	})
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
	c.pinned, c.session, c.number, c.over = nil, nil, 0, nil
}

// lose tells all locks of the session that they are lost. The caller uses the
// session.
func (c *common) lose(err error) {
	if c.pinned == nil {
		return
	}
	session := c.session
	err = cmp.Or(err, errDead)
	c.close(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.locks {
		if k.session == session {
			k.lose(err)
			delete(c.locks, k)
		}
	}
}

// watch tells the locks of the session when it is gone, until over is closed.
func (c *common) watch(over <-chan struct{}, o *Options, pulse time.Duration) {
	looks, asks := time.NewTicker(o.check()), time.NewTicker(pulse)
	defer looks.Stop()
	defer asks.Stop()
	for {
		ask := false
		select {
		case <-over:
			return
		case <-looks.C:
		case <-asks.C:
			ask = true
		}
		_ = c.use(context.Background(), func() error {
			select {
			case <-over: // just now
				return nil
			default:
			}
			if err := c.look(ask, pulse/2); err != nil {
				c.session.Discard()
				c.lose(err)
			}
			return nil
		})
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
	answer, err := c.session.Send(ctx, checking, locksql.Select("select pg_catalog.count(*) from pg_catalog.pg_locks"+
		" where locktype operator(pg_catalog.=) 'advisory' and granted and pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()"))
	if err != nil {
		return silence(ctx, c.session, err)
	}
	if n, err := strconv.Atoi(first(answer)); err == nil && n < c.distinct() {
		return errNotHeld
	}
	return nil
}

// distinct returns how many locks the server must show for the session.
func (c *common) distinct() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make(map[hashkey.Key]bool, len(c.locks))
	for k := range c.locks {
		if k.session == c.session {
			keys[bare(k.key)] = true
		}
	}
	return len(keys)
}

// commonPool is the pool as a call for a Shareable lock uses it.
type commonPool struct {
	*pool
	common *common
}

// Conn is [acquire.Pool]'s. It takes no connection: the question is asked on the
// common session.
func (p *commonPool) Conn(ctx context.Context) (acquire.Conn, error) {
	return &commonConn{pool: p.pool, common: p.common}, ctx.Err()
}

// commonConn is the common session, for one call, or a connection of its own where
// the call has to wait: an [acquire.Conn].
type commonConn struct {
	*pool
	common  *common
	session *pgsession.Session // the common one, if it has the lock
	own     *conn
	dead    bool
}

// Open is [acquire.Conn]'s.
func (c *commonConn) Open(ctx context.Context, o acquire.Opening) (granted bool, err error) {
	if o.Wait {
		if c.own == nil {
			own, err := c.Conn(ctx)
			if err != nil {
				c.dead = errors.Is(err, driver.ErrBadConn)
				return false, err
			}
			c.own = own.(*conn)
		}
		return c.own.Open(ctx, o)
	}
	c.session, c.dead, err = c.common.try(ctx, c.pool)
	return c.session != nil, err
}

// Release is [acquire.Conn]'s.
func (c *commonConn) Release(ctx context.Context) {
	if c.own != nil {
		c.own.Release(ctx)
	}
	if c.session != nil {
		_ = c.common.freeOne(c.session, c.key, c.opts.Shared) // an error means that it is not held
		c.session = nil
	}
}

// Closed is [acquire.Conn]'s.
func (c *commonConn) Closed() bool { return c.dead || c.own != nil && c.own.Closed() }

// add returns the lock of p.key that session has.
func (c *common) add(p *pool, session *pgsession.Session, pulse time.Duration) *Lock {
	k := newLock(c, p, p.key, session)
	c.mu.Lock()
	c.locks[k] = true
	c.mu.Unlock()
	_ = c.use(context.Background(), func() error {
		switch {
		case c.session != session: // it was lost before the lock was there to be told
			k.lose(errDead)
		case c.over == nil:
			c.over = make(chan struct{})
			go c.watch(c.over, p.opts, pulse)
		}
		return nil
	})
	return k
}

func (c *common) free(k *Lock) error {
	c.mu.Lock()
	delete(c.locks, k)
	c.mu.Unlock()
	defer c.turns.give(k.key, k.opts.Shared)
	if errors.Is(k.Err(), ErrLost) {
		return k.lost()
	}
	switch err := c.freeOne(k.session, k.key, k.opts.Shared); {
	case err == nil:
		return nil
	case errors.Is(err, errNotHeld), errors.Is(err, errDead), !lockerr.IsAnswer(err):
		return k.lostBy(err)
	default:
		return fmt.Errorf("sessionlock: %s: unlock: %w", k.key, err)
	}
}

func (c *common) cut(k *Lock) {
	_ = c.freeOne(k.session, k.key, k.opts.Shared) // an error means that it is not held
}
