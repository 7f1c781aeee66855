package pgxlock

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/pgxtx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// Func is what runs while the lock is held. Its ctx is the caller's, marked so
// that a nested call on the same pool is refused rather than waiting for ever.
// It also ends by Options.MaxHold, when the lock is lost (its cause is [ErrLost]
// then), and when the call is over: what Func has left running with it does not
// go on without the lock. Its tx is a transaction that holds the lock, for reads
// and writes only: ending it is WithTx's business.
type Func = func(ctx context.Context, tx pgx.Tx) error

// pool is the *pgxpool.Pool as one call uses it: a [acquire.Pool].
type pool struct {
	*pgxpool.Pool
	fn          Func
	query       *pgsession.Query // of an Exec that may go in one message
	transaction locksql.Transaction
}

// undated is a ctx that does not show its deadline, but ends at it. pgxpool would
// close an idle connection that it is trying when the deadline comes.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// Conn is [acquire.Pool]'s. Where ctx ends while a connection is made, pgxpool makes
// it to its end, for the next caller.
func (p *pool) Conn(ctx context.Context) (acquire.Conn, error) {
	pooled, err := p.Acquire(undated{ctx})
	if err != nil {
		return nil, err
	}
	c := &conn{fn: p.fn, pooled: pooled, pgx: pooled.Conn()}
	c.Tx = pgtx.Tx{Package: pkg, Session: pgsession.Of(c.pgx), Transaction: &p.transaction, Trace: true}
	if p.query != nil {
		return &execConn{c, p.query}, nil
	}
	return c, nil
}

// OpenConnections is [acquire.Pool]'s.
func (p *pool) OpenConnections() int { return int(p.Stat().TotalConns()) }

// conn is a connection of the pool: a [txlock.Conn].
type conn struct {
	pgtx.Tx
	fn     Func
	pooled *pgxpool.Conn
	pgx    *pgx.Conn
	fnTx   atomic.Pointer[pgxtx.Tx] // once the lock is granted
}

// Run is [txlock.Conn]'s.
func (c *conn) Run(ctx context.Context) error {
	tx := pgxtx.Begin(ctx, c.pgx, pgtx.Working, c.Keys)
	c.fnTx.Store(tx)
	return c.fn(ctx, tx)
}

// Lost is [txlock.Conn]'s. Where the socket does not tell, pgx may.
func (c *conn) Lost() bool {
	if closed, known := c.Session.PeerClosed(); known {
		return closed
	}
	tx := c.fnTx.Load()
	return tx != nil && tx.Guard().Lost(c.Session.Read)
}

// Refuse is [txlock.Conn]'s.
func (c *conn) Refuse(context.Context) (txlock.Outcome, error) {
	guard := c.fnTx.Load().Guard()
	guard.End()
	c.Text = guard.MayDeallocate()
	return c.Tx.Refuse(guard.Ended(), guard.FirstError())
}

// Release is [txlock.Conn]'s.
func (c *conn) Release(ctx context.Context) {
	if c.pooled == nil {
		return
	}
	defer func() { // a tracer may panic
		if !c.Session.Usable() {
			c.Session.Discard()
		}
		c.pooled.Release() // which forgets it, if it is closed
		c.pooled = nil
	}()
	if tx := c.fnTx.Load(); tx != nil {
		tx.Guard().End()
	}
	c.Rollback(ctx)
}

// execConn is a conn that can do all of an Exec in one message.
type execConn struct {
	*conn
	query *pgsession.Query
}

// Exec is [txlock.Execer]'s.
func (c *execConn) Exec(ctx, waitCtx context.Context, limit time.Duration) txlock.Executed {
	return c.Tx.Exec(ctx, waitCtx, *c.query, limit)
}
