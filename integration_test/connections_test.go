package integration_test

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// transports are the ways to a server. Each returns a DSN and what leads a pool
// there.
var transports = map[string]func(t *testing.T) (dsn string, through func(*pgx.ConnConfig)){
	"TCP": func(t *testing.T) (string, func(*pgx.ConnConfig)) { return newDatabase(t), func(*pgx.ConnConfig) {} },
	"TLS": func(t *testing.T) (string, func(*pgx.ConnConfig)) {
		dsn := pgtest.Dedicated(t).DSN()
		turnOnTLS(t, openDB(t, dsn))
		return dsn, func(config *pgx.ConnConfig) { config.TLSConfig = &tls.Config{InsecureSkipVerify: true} }
	},
}

// locking are the ways to hold a lock for a moment. With a wait of 0 it is a try.
var locking = map[string]func(db *sql.DB) func(ctx context.Context, key hashkey.Key, wait time.Duration) error{
	"Lock":           func(db *sql.DB) func(context.Context, hashkey.Key, time.Duration) error { return lockFor(db, false) },
	"Lock shareable": func(db *sql.DB) func(context.Context, hashkey.Key, time.Duration) error { return lockFor(db, true) },
	"WithTx":         func(db *sql.DB) func(context.Context, hashkey.Key, time.Duration) error { return withTxFor(db, false) },
	"WithTx plain":   func(db *sql.DB) func(context.Context, hashkey.Key, time.Duration) error { return withTxFor(db, true) },
}

func lockFor(db *sql.DB, shareable bool) func(context.Context, hashkey.Key, time.Duration) error {
	l := sessionlock.New(db)
	return func(ctx context.Context, key hashkey.Key, wait time.Duration) error {
		call := l.With(sessionlock.Options{Wait: wait, Shareable: shareable}).Lock
		if wait == 0 {
			call = l.With(sessionlock.Options{Shareable: shareable}).TryLock
		}
		k, err := call(ctx, key)
		if err != nil {
			return err
		}
		return k.Unlock()
	}
}

func withTxFor(db *sql.DB, plain bool) func(context.Context, hashkey.Key, time.Duration) error {
	l := xactlock.New(db)
	return func(ctx context.Context, key hashkey.Key, wait time.Duration) error {
		call := l.With(xactlock.Options{Wait: wait, Plain: plain}).WithTx
		if wait == 0 {
			call = l.With(xactlock.Options{Plain: plain}).TryWithTx
		}
		return call(ctx, key, nothing)
	}
}

// Waits that time out and tries that are refused cost no connection, and callers
// whose Wait is shorter than it takes to connect make progress from a cold pool.
// Both hold with TLS, where it takes longer to connect.
func TestErrorsCostNoConnection(t *testing.T) {
	t.Parallel()
	for transport, reach := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			dsn, through := reach(t)
			others := openDB(t, dsn, through)
			for name, locks := range locking {
				if transport == "TLS" && strings.Contains(name, " ") {
					continue // what they do there is the same as without
				}
				t.Run(name, func(t *testing.T) {
					t.Run("errors", func(t *testing.T) { testErrorsCostNoConnection(t, openDB(t, dsn, through), others, locks) })
					t.Run("cold pool", func(t *testing.T) { testColdPool(t, dsn, through, others, locks) })
				})
			}
		})
	}
}

func testErrorsCostNoConnection(t *testing.T, db, others *sql.DB, locks func(*sql.DB) func(context.Context, hashkey.Key, time.Duration) error) {
	const conns = 4
	key := hashkey.Name("k")
	k := lock(t, sessionlock.New(others), key)
	db.SetMaxOpenConns(conns)
	call := locks(db)
	keepsConnections(t, db, conns, func() {
		err := parallel(conns, func(int) error {
			for range stress(1000) / conns {
				if err := call(t.Context(), key, 20*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
					return expect(context.DeadlineExceeded, err)
				}
				if err := call(t.Context(), key, 0); !errors.Is(err, sessionlock.ErrNotAcquired) {
					return expect(sessionlock.ErrNotAcquired, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	unlock(t, k)
	noTrace(t, db, others)
}

// keepsConnections fails the test if f has the pool make connections. The pool
// has n from before.
func keepsConnections(t *testing.T, db *sql.DB, n int, f func()) {
	t.Helper()
	db.SetMaxIdleConns(n)
	warm(t, db, n)
	pids := func() map[int]bool {
		all := make(map[int]bool)
		var mu sync.Mutex
		err := parallel(n, func(int) error {
			var pid int
			err := db.QueryRow(`select pg_backend_pid() from pg_sleep(0.2)`).Scan(&pid)
			mu.Lock()
			defer mu.Unlock()
			all[pid] = true
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := pids()
	f()
	for pid := range pids() {
		if !before[pid] {
			t.Errorf("session %d is new", pid)
		}
	}
}

// testColdPool has callers whose Wait is shorter than it takes to connect, and
// checks that no dial is in vain.
func testColdPool(t *testing.T, dsn string, through func(*pgx.ConnConfig), others *sql.DB, locks func(*sql.DB) func(context.Context, hashkey.Key, time.Duration) error) {
	const callers, conns, grants = 16, 5, 5
	var dials atomic.Int64
	db := openDB(t, dsn, through, func(config *pgx.ConnConfig) {
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(10 * time.Millisecond)
			return dial(ctx, network, address)
		}
	})
	db.SetMaxOpenConns(conns)
	key := hashkey.Name("k")
	call, hold := locks(db), lockFor(others, false)
	ctx, cancel := context.WithCancel(t.Context())
	busy := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := hold(t.Context(), key, patience); err != nil {
				busy <- err
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
		busy <- nil
	}()
	var granted atomic.Int64
	began := time.Now()
	err := parallel(callers, func(int) error {
		for granted.Load() < grants && time.Since(began) < patience {
			switch err := call(t.Context(), key, 5*time.Millisecond); {
			case err == nil:
				granted.Add(1)
			case !errors.Is(err, sessionlock.ErrNotAcquired):
				return err
			}
		}
		return nil
	})
	cancel()
	if err := errors.Join(err, <-busy); err != nil {
		t.Error(err)
	}
	const cancelRequests = 5 // each is a dial, and a slow machine may need some
	if got, n := granted.Load(), dials.Load(); got < grants || n > conns+cancelRequests {
		t.Errorf("%d grants, and %d dials for a pool of %d", got, n, conns)
	}
	noTrace(t, db, others)
}
