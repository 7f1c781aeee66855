package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// lockSession takes the lock for the session, or waits for it. If it is not
// granted, the session holds nothing.
func (c *plainConn) lockSession(ctx context.Context, o txlock.Opening) (granted bool, err error) {
	t := &c.job.transaction
	patient, cancel := pastDeadline(ctx)
	defer cancel()
	message := locksql.SessionVerdict(locksql.TryLock, t.Shared, t.Keys)
	if o.Wait {
		message = locksql.WaitForSession(t.Shared, t.Keys, o.Limit)
	}
	granted, err = askVerdict(patient, c.conn, message)
	if err != nil && discardDead(c.conn) {
		c.closed = true
		return false, err
	}
	if c.locked = granted; !granted {
		// Some of several locks may be held, even after an error.
		c.cleanUp(c.conn, func(ctx context.Context) error {
			_, err := c.conn.ExecContext(ctx, t.Abandon().Text())
			return err
		})
	}
	return granted, err
}

// unlockSession frees what lockSession took.
func (c *plainConn) unlockSession(conn *sql.Conn) {
	t := &c.job.transaction
	c.cleanUp(conn, func(ctx context.Context) error {
		ok, err := askVerdict(ctx, conn, locksql.SessionVerdict(locksql.Unlock, t.Shared, t.Keys))
		if err == nil && !ok {
			err = errors.New("the session did not hold the lock")
		}
		return err
	})
}

// cleanUp runs clean, and closes the connection if that fails, rather than give
// it back to the pool.
func (c *plainConn) cleanUp(conn *sql.Conn, clean func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), endingPatience)
	defer cancel()
	if clean(ctx) == nil {
		return
	}
	_ = conn.Raw(closeDriver)
	pgsession.Forget(conn)
}

// closeDriver closes the driver's connection, and with it the session.
func closeDriver(driverConn any) error {
	if s := pgsession.Unwrap(driverConn); s != nil {
		s.Discard()
	} else if c, ok := driverConn.(driver.Conn); ok {
		return c.Close()
	}
	return nil
}

// discardDead has the pool forget conn if its driver says that it is of no use
// any more, and reports whether it did. pgx leaves that to the next user of the
// connection.
func discardDead(conn *sql.Conn) bool {
	return conn.Raw(func(driverConn any) error {
		if s := pgsession.Unwrap(driverConn); s != nil {
			if s.Closed() {
				return driver.ErrBadConn
			}
		} else if v, ok := driverConn.(driver.Validator); ok && !v.IsValid() {
			return driver.ErrBadConn
		}
		return nil
	}) != nil
}
