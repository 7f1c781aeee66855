package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/sqltx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// pgxConn is a connection of pgx below database/sql: a [txlock.Conn].
type pgxConn struct {
	pgtx.Tx
	pool   *pool
	conn   *sql.Conn
	pooled driver.Conn // as it came from the pool, for fn's statements
	fnTx   *sqltx.Tx   // while fn runs
}

// Run is [txlock.Conn]'s.
func (c *pgxConn) Run(ctx context.Context) (_ txlock.Outcome, err error) {
	if c.fnTx, err = sqltx.Begin(c.pooled, c.Session.PG(), pgtx.Working); err != nil {
		return txlock.Failed, err
	}
	if err := c.pool.fn(ctx, c.fnTx.Tx); err != nil {
		return txlock.RolledBack, err
	}
	tx := c.fnTx
	c.end()
	return c.Refuse(tx.Ended(), tx.FirstError())
}

// end ends fn's transaction, if there is one, for fn.
func (c *pgxConn) end() {
	if c.fnTx != nil {
		c.fnTx.End()
		c.fnTx = nil
	}
}

// Release is [txlock.Conn]'s.
func (c *pgxConn) Release(ctx context.Context) {
	if c.conn == nil {
		return
	}
	c.end()
	c.Rollback(ctx)
	if !c.Session.Usable() {
		c.Session.Discard()
		pgsession.Forget(c.conn)
	}
	_ = c.conn.Close() // fails only on a connection that is forgotten
	c.conn = nil
}

// Closed is [txlock.Conn]'s.
func (c *pgxConn) Closed() bool { return c.Session.Closed() }

// execConn is a pgxConn that can do all of an Exec in one message.
type execConn struct{ *pgxConn }

// Exec is [txlock.Execer]'s.
func (c *execConn) Exec(ctx, waitCtx context.Context, limit time.Duration) txlock.Executed {
	return c.Tx.Exec(ctx, waitCtx, *c.pool.query, limit)
}
