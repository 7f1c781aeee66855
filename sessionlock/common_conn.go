package sessionlock

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
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
	common *common
	lock   *Lock // on the common session, if that has it
	own    *conn
	dead   bool
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
	c.lock, c.dead, err = c.common.try(ctx, c.pool)
	return c.lock != nil, err
}

// Release is [acquire.Conn]'s.
func (c *commonConn) Release(ctx context.Context) {
	if c.own != nil {
		c.own.Release(ctx)
	}
	if c.lock != nil {
		_ = c.common.release(c.lock) // an error means that it is not held
		c.lock = nil
	}
}

// Closed is [acquire.Conn]'s.
func (c *commonConn) Closed() bool { return c.dead || c.own != nil && c.own.Closed() }
