package pgxtx

import (
	"errors"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/internal/txguard"
)

// conn is the connection that a Tx runs on, and each Tx nested in it.
type conn struct {
	txguard.Guard
	pgx        *pgx.Conn
	busy       atomic.Bool // fn uses the connection
	savepoints atomic.Int64
}

// expose returns the connection for fn's own use.
func (c *conn) expose() *pgx.Conn {
	c.Expose()
	return c.pgx
}

// free reports whether pgx does not use the connection. The guard is locked.
func (c *conn) free() bool { return !c.pgx.PgConn().IsBusy() }

// enter begins the use of what a statement has left open.
func (c *conn) enter() error {
	if !c.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	c.Lock()
	return nil
}

func (c *conn) leave() {
	c.Unlock()
	c.busy.Store(false)
}

var errBusy = errors.New("conn busy: a statement of this transaction is still running")
