package sessionlock

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/sqlconn"
)

// pool is the *sql.DB as one call uses it: an [acquire.Pool].
type pool struct {
	owner    any // the *sql.DB
	conns    *sqlconn.Pool
	opts     *Options
	key      hashkey.Key
	slots    int               // >0: any of so many slots of key
	settings []locksql.Setting // of a session that holds the lock
	pulse    time.Duration     // how often a common session is asked
}

// keys returns the locks of which one is asked for.
func (p *pool) keys() []hashkey.Key { return locksql.Slots(p.key, p.slots) }

// Conn is [acquire.Pool]'s.
func (p *pool) Conn(ctx context.Context) (acquire.Conn, error) {
	sqlConn, err := p.conns.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c, err := p.on(sqlConn)
	if err != nil {
		_ = sqlConn.Close() // it goes back as it was, or is closed
		return nil, err
	}
	return c, nil
}

// on returns the session of sqlConn.
func (p *pool) on(sqlConn *sql.Conn) (*conn, error) {
	c := &conn{pool: p, conn: sqlConn}
	err := sqlConn.Raw(func(driverConn any) error {
		if c.session = pgsession.Unwrap(driverConn); c.session == nil {
			return fmt.Errorf("%w, and not %T", ErrDriver, driverConn)
		}
		c.besides = holdingsOf(c.session)
		return checkServer(c.session)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// OpenConnections is [acquire.Pool]'s.
func (p *pool) OpenConnections() int { return p.conns.OpenConnections() }

// checkServer returns why the locks of the server exclude no session, as far as the
// server said so when the session began.
//
// Whether it is a hot standby is left to the message that locks: a client that
// has sent nothing since a promotion has not heard of it, and would refuse what
// is a primary by now.
func checkServer(s *pgsession.Session) error {
	if s.Pretends() {
		return ErrUnsupportedServer
	}
	return nil
}

// conn is a connection of the pool: an [acquire.Conn].
type conn struct {
	*pool
	conn    *sql.Conn
	callers bool // the connection is the caller's, and not to be closed
	session *pgsession.Session
	besides *holdings   // all that the session holds
	granted hashkey.Key // what the session holds, if it holds it
	holds   bool
	saved   []locksql.Setting // the session's settings as they were, if it holds the lock
	dead    error             // why the session is gone, if it is
}

// Open is [acquire.Conn]'s.
func (c *conn) Open(ctx context.Context, o acquire.Opening) (granted bool, err error) {
	rawErr := c.conn.Raw(func(any) error {
		c.holds, err = c.ask(ctx, o)
		switch {
		case c.holds && c.callers:
			c.besides.addCallers(c.granted, c.saved)
		case c.holds:
			c.besides.add()
		}
		if c.session.Closed() {
			c.dead = cmp.Or(err, errDead)
			return driver.ErrBadConn
		}
		return nil
	})
	if err == nil && rawErr != nil {
		c.dead, err = rawErr, rawErr // the pool was closed in between
	}
	return c.holds, err
}

func (c *conn) ask(ctx context.Context, how acquire.Opening) (granted bool, err error) {
	s, o := c.session, c.opts
	if !s.Usable() {
		end(s, errDead, c.besides.lose) // a caller left a transaction open in the pool
		return false, errDead
	}
	if c.callers {
		if err := c.besides.refuse(c.key); err != nil {
			return false, err
		}
	}
	keys := c.keys()
	lock := o.sessionLock(s, keys, c.settings)
	message, policy := lock.Try(), asking
	if how.Wait {
		message, policy = lock.Wait(rand.N(len(keys)), how.Limit), interrupt.Waiting
	}
	answer, err := send(ctx, s, policy, message, c.besides.lose)
	if err == nil {
		var slot int
		if c.saved, slot, err = verdict(s, answer, c.besides.lose); slot >= 0 {
			c.granted = keys[slot]
		}
		return slot >= 0, err
	}
	if s.Closed() {
		return false, err
	}
	// The session may have got the lock all the same, just before the message
	// failed.
	forsake(s, o.Shared, keys, c.besides.lose)
	return false, err
}

// Release is [acquire.Conn]'s.
func (c *conn) Release(context.Context) {
	if c.conn == nil {
		return
	}
	if c.holds {
		_ = c.conn.Raw(func(any) error {
			if _, err := c.unlock(); err != nil {
				end(c.session, err, c.besides.lose)
				return driver.ErrBadConn
			}
			return nil
		})
	}
	if !c.callers {
		_ = c.conn.Close() // fails only on a connection that is forgotten
	}
	c.conn = nil
}

// unlock gives the lock back, and reports whether it was held. What the session may
// hold besides stays on a connection of the caller's own, and must not reach the
// pool with another.
func (c *conn) unlock() (held bool, err error) {
	h, shared := c.besides, c.opts.Shared
	switch {
	case !c.callers:
		h.remove()
		return unlock(c.session, shared, c.granted, true, c.saved, h.lose)
	case h.removeCallers(c.granted):
		return unlock(c.session, shared, c.granted, false, h.saved, h.lose)
	}
	return unlock(c.session, shared, c.granted, false, nil, h.lose)
}

// Closed is [acquire.Conn]'s.
func (c *conn) Closed() bool { return c.dead != nil }
