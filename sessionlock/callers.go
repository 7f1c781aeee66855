package sessionlock

import (
	"context"
	"database/sql"
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
)

// callersPool is the pool as a call on a connection of the caller's own sees it:
// that connection is all there is.
type callersPool struct {
	*pool
	sqlConn *sql.Conn
	last    *conn
}

// Conn is [acquire.Pool]'s.
func (p *callersPool) Conn(ctx context.Context) (acquire.Conn, error) {
	if p.last != nil && p.last.Closed() { // and there is no other connection to go on with
		return nil, p.last.dead
	}
	c, err := p.on(p.sqlConn)
	if err != nil {
		return nil, err
	}
	err = p.sqlConn.Raw(func(any) error {
		if !c.session.Usable() {
			return errNotUsable
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.callers, p.last = true, c
	return c, ctx.Err()
}

var errNotUsable = errors.New("sessionlock: the connection has a transaction or rows open, or is closed")
