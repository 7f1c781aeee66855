package xactlock

import (
	"database/sql"
	"database/sql/driver"

	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// closeDriver closes the driver's connection, and with it the session.
func closeDriver(driverConn any) error {
	if s := pgsession.Unwrap(driverConn); s != nil {
		s.Discard()
	} else if c, ok := driverConn.(driver.Conn); ok {
		return c.Close()
	}
	return nil
}

// isDead reports whether the driver says that conn is of no use any more.
func isDead(conn *sql.Conn) bool {
	dead := false
	err := conn.Raw(func(driverConn any) error {
		if s := pgsession.Unwrap(driverConn); s != nil {
			dead = s.Closed()
		} else if v, ok := driverConn.(driver.Validator); ok {
			dead = !v.IsValid()
		}
		return nil
	})
	return dead || err != nil
}

// discardDead has the pool forget conn if it is dead, and reports whether it
// was. pgx leaves that to the next user of the connection.
func discardDead(conn *sql.Conn) bool {
	dead := isDead(conn)
	if dead {
		pgsession.Forget(conn)
	}
	return dead
}
