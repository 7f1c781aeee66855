package sessionlock

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

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
		_ = c.common.useOf(c.session, func(ctx context.Context) error {
			return c.common.freeOne(ctx, c.key, c.opts.Shared)
		}) // an error means that it is not held
		c.session = nil
	}
}

// Closed is [acquire.Conn]'s.
func (c *commonConn) Closed() bool { return c.dead || c.own != nil && c.own.Closed() }
