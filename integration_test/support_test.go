// Package integration_test holds the tests that need a server, a real PostgreSQL and
// a real PgBouncer: the contract of xactlock and pgxlock, rule by rule, in the numbers
// of the README, sessionlock, and what users see of the rest.
package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// patience bounds every wait for a state. It is generous, because what ends in
// it is a test that fails anyway.
const patience = 30 * time.Second

var until = testneed.Until

// newDatabase returns the DSN of an empty database of the test's own.
func newDatabase(tb testing.TB) string {
	tb.Helper()
	return pgtest.New(tb).Scratch(tb)
}

// newDB returns a pool on a database of the test's own.
func newDB(tb testing.TB) *sql.DB {
	tb.Helper()
	return openDB(tb, newDatabase(tb))
}

// openDB returns a pool on dsn, and at the end of the test checks that no
// connection of it is in use.
func openDB(tb testing.TB, dsn string, options ...func(*pgx.ConnConfig)) *sql.DB {
	tb.Helper()
	return openStdlib(tb, dsn, nil, options...)
}

// openMetered is openDB with a meter, and without pgx's question whether a
// connection that was idle for a second is alive, a message now and then.
func openMetered(tb testing.TB, dsn string, m *meter, options ...func(*pgx.ConnConfig)) *sql.DB {
	tb.Helper()
	never := stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false })
	return openStdlib(tb, dsn, []stdlib.OptionOpenDB{never}, append(options, m.on)...)
}

func openStdlib(tb testing.TB, dsn string, opts []stdlib.OptionOpenDB, options ...func(*pgx.ConnConfig)) *sql.DB {
	tb.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	for _, option := range options {
		option(config)
	}
	return openConfig(tb, config, opts...)
}

func openConfig(tb testing.TB, config *pgx.ConnConfig, opts ...stdlib.OptionOpenDB) *sql.DB {
	tb.Helper()
	db := stdlib.OpenDB(*config, opts...)
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	tb.Cleanup(func() {
		until(tb, "no connection is in use", func() bool { return db.Stats().InUse == 0 })
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// bounded returns a context for calls that would never return if they did not
// do what the test is about. That it was needed fails the test, whose call may
// expect such an end of its context, only earlier.
func bounded(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	tb.Cleanup(func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			tb.Errorf("a call hung for %v", patience)
		}
		cancel()
	})
	return ctx
}

// received returns what is sent on a channel, or the zero value once it is closed, and
// ends the test if that does not come.
func received[T any](tb testing.TB, what string, from <-chan T) (value T) {
	tb.Helper()
	select {
	case value = <-from:
	case <-time.After(patience):
		tb.Fatalf("after %v it is still not so that %s", patience, what)
	}
	return value
}

// exec runs a statement that must succeed.
func exec(tb testing.TB, db *sql.DB, query string, args ...any) {
	tb.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
}

// number returns the one number that a query returns.
func number(tb testing.TB, db interface {
	QueryRow(string, ...any) *sql.Row
}, query string, args ...any) int {
	tb.Helper()
	var n int
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return n
}

// untilOneSleeps waits until one session of the database of db executes pg_sleep.
func untilOneSleeps(tb testing.TB, db *sql.DB) {
	tb.Helper()
	until(tb, "a statement sleeps", func() bool {
		return number(tb, db, `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`) == 1
	})
}

const inThisDatabase = ` locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()) `

// heldLocks and waitingLocks count the advisory locks of the database of db.
func heldLocks(tb testing.TB, db *sql.DB) int {
	tb.Helper()
	return number(tb, db, `select count(*) from pg_locks where granted and`+inThisDatabase)
}

func waitingLocks(tb testing.TB, db *sql.DB) int {
	tb.Helper()
	return number(tb, db, `select count(*) from pg_locks where not granted and`+inThisDatabase)
}

// noTrace checks that the database has no advisory lock and no transaction
// open, and the pools no connection in use.
func noTrace(tb testing.TB, db *sql.DB, pools ...*sql.DB) {
	tb.Helper()
	until(tb, "there is no advisory lock", func() bool { return heldLocks(tb, db)+waitingLocks(tb, db) == 0 })
	until(tb, "no transaction is open", func() bool {
		return number(tb, db, `select count(*) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null`) == 0
	})
	for _, pool := range append(pools, db) {
		until(tb, "no connection is in use", func() bool { return pool.Stats().InUse == 0 })
	}
}

// holder is somebody else who holds a lock, until release.
type holder struct {
	release func() error
	pid     int
}

// hold takes key through locker and holds it until release, or the end of the
// test.
func hold(tb testing.TB, locker *xactlock.Locker, key hashkey.Key) *holder {
	tb.Helper()
	h := new(holder)
	holding, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		left <- locker.WithTx(context.Background(), key, func(ctx context.Context, tx *sql.Tx) error {
			if err := tx.QueryRow(`select pg_backend_pid()`).Scan(&h.pid); err != nil {
				return err
			}
			close(holding)
			<-leave
			return nil
		})
	}()
	select {
	case <-holding:
	case err := <-left:
		tb.Fatalf("hold %v: %v", key, err)
	case <-time.After(patience):
		tb.Fatalf("hold %v: no lock", key)
	}
	h.release = sync.OnceValue(func() error {
		close(leave)
		return <-left
	})
	tb.Cleanup(func() {
		if err := h.release(); err != nil && !errors.Is(err, errExpected) {
			tb.Logf("hold %v: %v", key, err)
		}
	})
	return h
}

var errExpected = errors.New("an error of the test's own")

// nothing is the empty callback.
func nothing(context.Context, *sql.Tx) error { return nil }

// unreachable is the callback of a call that must not get so far.
func unreachable(tb testing.TB) xactlock.Func {
	return func(context.Context, *sql.Tx) error {
		tb.Error("fn ran")
		return nil
	}
}

// meter counts what a pool's connections send.
type meter struct {
	messages atomic.Int64 // writes: what pgx sends at once, it waits for at once
	dials    atomic.Int64
}

// wrapping has pgx use what wrap makes of each connection.
func wrapping(wrap func(net.Conn) net.Conn) func(*pgx.ConnConfig) {
	return func(config *pgx.ConnConfig) {
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(conn), nil
		}
	}
}

// on has a connection's dialer metered.
func (m *meter) on(config *pgx.ConnConfig) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		m.dials.Add(1)
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &meteredConn{Conn: conn, meter: m}, nil
	}
}

type meteredConn struct {
	net.Conn
	meter *meter
}

func (c *meteredConn) Write(b []byte) (int, error) {
	c.meter.messages.Add(1)
	return c.Conn.Write(b)
}

// during returns the messages sent while f runs.
func (m *meter) during(tb testing.TB, f func() error) int {
	tb.Helper()
	before := m.messages.Load()
	if err := f(); err != nil {
		tb.Fatal(err)
	}
	return int(m.messages.Load() - before)
}

// parallel runs f n times at once and returns the errors.
func parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if err := f(i); err != nil {
				errs[i] = fmt.Errorf("goroutine %d: %w", i, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// openSame returns another pool on the database of db.
func openSame(tb testing.TB, db *sql.DB) *sql.DB {
	tb.Helper()
	return openDB(tb, dsnOf(tb, db))
}

// dsnOf returns the DSN of the database of db.
func dsnOf(tb testing.TB, db *sql.DB) string {
	tb.Helper()
	conn, err := db.Conn(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	var dsn string
	err = conn.Raw(func(driverConn any) error {
		dsn = driverConn.(*stdlib.Conn).Conn().Config().ConnString()
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return dsn
}

// stress returns how many times a stress test does something: in full, or with
// -short a tenth of it, and 500 at most.
func stress(n int) int {
	if testing.Short() {
		return min(n/10, 500)
	}
	return n
}
