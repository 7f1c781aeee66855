package xactlock

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/sqlconn"
)

// pool is the *sql.DB as one call uses it: a [acquire.Pool].
type pool struct {
	job
	conns *sqlconn.Pool
	plain *bool // whether the call has taken the plain path
}

// Conn returns a connection, as the options and the driver say which.
//
// The driver's connection is used outside Raw, for as long as the *sql.Conn is
// held, which keeps it from any other use. Raw closes the connection of a
// function that panics, and to keep fn's panic from it would take fn's frames
// out of the stack trace.
func (p *pool) Conn(ctx context.Context) (acquire.Conn, error) {
	conn, err := p.conns.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var pooled any
	if err := conn.Raw(func(driverConn any) error { pooled = driverConn; return nil }); err != nil {
		_ = conn.Close() // it is closed
		return nil, err
	}
	s := pgsession.Unwrap(pooled)
	switch {
	case s == nil && p.opts.RequirePgx:
		_ = conn.Close() // it goes back as it was
		return nil, fmt.Errorf("%w, and not %T (Options.RequirePgx is set)", ErrDriver, pooled)
	case s != nil && !p.opts.Plain:
		c := &pgxConn{job: &p.job, conn: conn, pooled: pooled.(driver.Conn)}
		c.Tx = pgtx.Tx{Package: pkg, Session: s, Transaction: &p.transaction}
		if p.query != nil {
			return &execConn{c}, nil
		}
		return c, nil
	}
	*p.plain = true
	return &plainConn{job: &p.job, conn: conn, session: s}, nil
}

// OpenConnections is [acquire.Pool]'s.
func (p *pool) OpenConnections() int { return p.conns.OpenConnections() }
