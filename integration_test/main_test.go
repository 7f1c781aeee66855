package integration_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.Unencrypted()
	os.Exit(pgtest.Main(m, noGoroutine, noLock, noSession))
}

// noGoroutine checks that the tests have left none behind.
func noGoroutine(*pgtest.Server) error {
	return goleak.Find(append(leftByPanics, connectionOpener)...)
}

// leftByPanics is what a panic inside database/sql leaves for ever: goroutines
// that wait for a lock of its own, which the panic left taken. No call waits for
// them.
var leftByPanics = []goleak.Option{
	goleak.IgnoreAnyFunction("database/sql.(*Tx).rollback"),
	goleak.IgnoreAnyFunction("github.com/pgadvisory/pgadvisory/xactlock.start.func1"),
	goleak.IgnoreAnyFunction("database/sql.(*Rows).close"),
	goleak.IgnoreAnyFunction("database/sql.(*Conn).close"),
}

// connectionOpener is what every *sql.DB has until it is closed; xactlock
// keeps a database for the transactions that it adopts.
var connectionOpener = goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener")

// noLock checks that the server holds no advisory lock, in any database.
func noLock(s *pgtest.Server) error {
	return none(s, "advisory locks", `select count(*) from pg_locks where locktype = 'advisory'`)
}

// noSession checks that the server has no session in a database of the tests', if
// it is not one that other packages' tests use at the same time.
func noSession(s *pgtest.Server) error {
	if os.Getenv("DATABASE_URL") != "" {
		return nil
	}
	return none(s, "sessions", `select count(*) from pg_stat_activity where datname like 'pgtest\_%'`)
}

// none checks that there are soon none of what a query counts.
func none(s *pgtest.Server, what, query string) error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		var left int
		if err := conn.QueryRow(ctx, query).Scan(&left); err != nil || left == 0 {
			return err
		}
		if time.Since(began) > patience/3 {
			return fmt.Errorf("the tests have left %d %s on the server", left, what)
		}
	}
}
