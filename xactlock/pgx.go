package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync/atomic"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/sqltx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// pgxConn is a connection of pgx below database/sql: a [txlock.Conn].
type pgxConn struct {
	pgtx.Tx
	job    *job
	conn   *sql.Conn
	pooled driver.Conn              // as it came from the pool, for fn's statements
	fnTx   atomic.Pointer[sqltx.Tx] // once the lock is granted
}

// Run is [txlock.Conn]'s.
func (c *pgxConn) Run(ctx context.Context) error {
	tx, err := sqltx.Begin(ctx, c.pooled, c.Session.PG(), pgtx.Working, c.Keys)
	if err != nil {
		return err
	}
	c.fnTx.Store(tx)
	return c.job.fn(ctx, tx.Tx)
}

// Lost is [txlock.Conn]'s. Where the socket does not tell, pgx may.
func (c *pgxConn) Lost() bool {
	if closed, known := c.Session.PeerClosed(); known {
		return closed
	}
	tx := c.fnTx.Load()
	return tx != nil && tx.Guard().Lost(c.Session.Read)
}

// Refuse is [txlock.Conn]'s.
func (c *pgxConn) Refuse(context.Context) (txlock.Outcome, error) {
	tx := c.fnTx.Load()
	if tx == nil {
		return txlock.RolledBack, nil // fn has not run
	}
	tx.End()
	c.Text = tx.Guard().MayDeallocate()
	return c.Tx.Refuse(tx.Guard().Ended(), tx.Guard().FirstError())
}

// Release is [txlock.Conn]'s.
func (c *pgxConn) Release(ctx context.Context) {
	if c.conn == nil {
		return
	}
	if tx := c.fnTx.Load(); tx != nil {
		tx.End()
	}
	c.Rollback(ctx)
	if !c.Session.Usable() {
		c.Session.Discard()
		pgsession.Forget(c.conn)
	}
	_ = c.conn.Close() // fails only on a connection that is forgotten
	c.conn = nil
}

// execConn is a pgxConn that can do all of an Exec in one message.
type execConn struct{ *pgxConn }

// Exec is [txlock.Execer]'s.
func (c *execConn) Exec(ctx, waitCtx context.Context, limit time.Duration) txlock.Executed {
	return c.Tx.Exec(ctx, waitCtx, *c.job.query, limit)
}
