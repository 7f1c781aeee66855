package sessionlock

import (
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// CancelStatements has pgx ask the server to cancel a statement when its ctx ends,
// rather than close the connection, and a lock that it holds with it. It is for
// the config of a pool from which locks are taken, before the pool is made:
//
//	config, err := pgx.ParseConfig(url)
//	…
//	sessionlock.CancelStatements(config)
//	db := stdlib.OpenDB(*config)
//
// The error of such a statement, on all connections of the pool, is the server's
// (SQLSTATE 57014) and not ctx's. If the server does not answer within five seconds,
// the connection is closed all the same. So it is where rows of pgx's own are open for
// longer once their ctx has ended, and under pgx's WaitForNotification, which is no
// statement that could be cancelled: use a connection of another pool for it.
func CancelStatements(config *pgx.ConnConfig) {
	const patience = 5 * time.Second
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		// Not pgx's own, which hangs up on the cancel request when the statement
		// is over: see interrupt.RequestCancel.
		return &interrupt.Handler{Conn: conn, Delay: patience}
	}
}
