// Package poolfake fakes a pool with connections that are asked for locks, for the tests
// of acquire and txlock. It is made for synctest: a wait on the server is a sleep.
package poolfake

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
)

// Pool has one connection after the other, each with a script.
type Pool struct {
	Scripts  []Script
	Openings []acquire.Opening // all that were asked for
	Freed    time.Time         // from when on all asked for is granted, if it is not zero
	Released int               // connections
}

// Script is what a connection answers to one Open after the other.
type Script []Answer

// Answer is one of them.
type Answer struct {
	Granted bool
	Err     error
	Dies    bool // the connection is closed then
}

// The answers.
var (
	Granted = Answer{Granted: true}
	Refused = Answer{}
	Died    = Answer{Err: errors.New("died"), Dies: true}
	Failed  = Answer{Err: errors.New("failed")}
)

// OpenConnections is [acquire.Pool]'s.
func (p *Pool) OpenConnections() int { return 2 }

// Conn is [acquire.Pool]'s. Without a script there is no connection.
func (p *Pool) Conn(ctx context.Context) (acquire.Conn, error) {
	c := &conn{pool: p}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !p.Freed.IsZero():
		return c, nil
	case len(p.Scripts) == 0:
		return nil, driver.ErrBadConn
	}
	c.script, p.Scripts = p.Scripts[0], p.Scripts[1:]
	return c, nil
}

type conn struct {
	pool             *Pool
	script           Script
	closed, released bool
}

func (c *conn) Open(_ context.Context, o acquire.Opening) (bool, error) {
	c.pool.Openings = append(c.pool.Openings, o)
	if freed := c.pool.Freed; !freed.IsZero() {
		if o.Wait {
			time.Sleep(o.Limit)
		}
		return time.Now().After(freed), nil
	}
	var a Answer
	if len(c.script) > 0 {
		a, c.script = c.script[0], c.script[1:]
	}
	if o.Wait && !a.Granted && a.Err == nil {
		time.Sleep(o.Limit)
	}
	c.closed = a.Dies
	return a.Granted, a.Err
}

func (c *conn) Release(context.Context) {
	if !c.released {
		c.pool.Released++
	}
	c.released = true
}

func (c *conn) Closed() bool { return c.closed }
