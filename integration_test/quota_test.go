package integration_test

import (
	"bytes"
	"context"
	"database/sql"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// heldKeys has other hold n keys until the test ends. Its holder is one
// transaction.
func heldKeys(t *testing.T, other *sql.DB, n int) []hashkey.Key {
	t.Helper()
	var keys []hashkey.Key
	for i := range n {
		keys = append(keys, hashkey.Namespace("held").ID(int64(i)))
	}
	inside, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		left <- xactlock.New(other).WithTxAll(context.Background(), keys, func(context.Context, *sql.Tx) error {
			close(inside)
			<-leave
			return nil
		})
	}()
	t.Cleanup(func() {
		close(leave)
		if err := <-left; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-inside:
	case err := <-left:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("the keys are not held")
	}
	return keys
}

// callers are goroutines whose calls end with the test at the latest.
type callers struct {
	ctx     context.Context
	running sync.WaitGroup
}

func newCallers(t *testing.T) *callers {
	ctx, stop := context.WithCancel(context.Background())
	c := &callers{ctx: ctx}
	t.Cleanup(func() { stop(); c.running.Wait() })
	return c
}

// add starts one.
func (c *callers) add(call func(ctx context.Context) error) {
	c.running.Go(func() { _ = call(c.ctx) }) // most end with ctx
}

// waysToWait are the ways to wait for one key.
var waysToWait = map[string]func(ctx context.Context, l *xactlock.Locker, key hashkey.Key) error{
	"WithTx": func(ctx context.Context, l *xactlock.Locker, key hashkey.Key) error {
		return l.WithTx(ctx, key, nothing)
	},
	"WithTx shared": func(ctx context.Context, l *xactlock.Locker, key hashkey.Key) error {
		return l.With(xactlock.Options{Shared: true}).WithTx(ctx, key, nothing)
	},
	"Exec": func(ctx context.Context, l *xactlock.Locker, key hashkey.Key) error {
		_, err := l.Exec(ctx, key, `select $1::int`, 1)
		return err
	},
}

// The quota is taken by waiters for keys that are held for long. A call for
// another key, which another process keeps busy, gets its turns all the same.
func TestTakenQuotaStarvesNoKey(t *testing.T) {
	t.Parallel()
	for name, call := range waysToWait {
		t.Run(name, func(t *testing.T) {
			const poolSize, turns = 4, 4
			db := newDB(t)
			watcher, rival := openSame(t, db), xactlock.New(openSame(t, db))
			db.SetMaxOpenConns(poolSize)
			l := xactlock.New(db)
			crowd := newCallers(t)
			for _, key := range heldKeys(t, watcher, poolSize) {
				crowd.add(func(ctx context.Context) error { return l.WithTx(ctx, key, nothing) })
			}
			until(t, "the quota is taken", func() bool { return waitingLocks(t, watcher) >= poolSize/2 })

			busy := hashkey.Name("busy")
			var rivalTurns atomic.Int64
			for range 3 {
				crowd.add(func(ctx context.Context) error {
					for ctx.Err() == nil {
						_ = rival.WithTx(ctx, busy, func(ctx context.Context, tx *sql.Tx) error {
							rivalTurns.Add(1)
							_, err := tx.ExecContext(ctx, `select pg_sleep(0.02)`)
							return err
						})
					}
					return nil
				})
			}
			until(t, "the key is busy all the time", func() bool { return rivalTurns.Load() >= 20 })
			before := rivalTurns.Load()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for n := range turns {
				if err := call(ctx, l, busy); err != nil {
					t.Fatalf("%d turns in %v, and %d of the other process: %v", n, patience, rivalTurns.Load()-before, err)
				}
			}
		})
	}
}

// poolOf8 are pools of eight connections.
var poolOf8 = map[string]func(t *testing.T, dsn string) *sql.DB{
	"limited": func(t *testing.T, dsn string) *sql.DB {
		db := openDB(t, dsn)
		db.SetMaxOpenConns(8)
		return db
	},
	"pgxpool": func(t *testing.T, dsn string) *sql.DB { // its limit is nothing that database/sql knows
		config, err := pgxpool.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 8
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		db := stdlib.OpenDBFromPool(pool)
		t.Cleanup(func() { _ = db.Close() })
		return db
	},
}

// Whatever many callers wait for, and however they do, some connections are
// left to the others.
func TestWaitersLeaveConnections(t *testing.T) {
	t.Parallel()
	for kind, open := range poolOf8 {
		for name, call := range waysToWait {
			t.Run(kind+"/"+name, func(t *testing.T) {
				dsn := newDatabase(t)
				watcher := openDB(t, dsn)
				db := open(t, dsn)
				l, crowd := xactlock.New(db), newCallers(t)
				for _, key := range heldKeys(t, watcher, 16) {
					for range 2 {
						crowd.add(func(ctx context.Context) error { return call(ctx, l, key) })
					}
				}
				until(t, "some wait on the server", func() bool { return waitingLocks(t, watcher) >= 2 })
				for range 20 {
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					_, err := db.ExecContext(ctx, `select 1`)
					cancel()
					if d := time.Since(began); err != nil || d > time.Second {
						t.Fatalf("select 1: %v, after %v", err, d)
					}
				}
			})
		}
	}
}

// record is what a pool's connections have sent.
type record struct {
	mu   sync.Mutex
	sent []byte // guarded by mu
}

// on has what a connection sends recorded.
func (r *record) on(config *pgx.ConnConfig) {
	wrapping(func(c net.Conn) net.Conn { return &recordedConn{c, r} })(config)
}

// names reports whether key was in a message.
func (r *record) names(key hashkey.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Contains(r.sent, strconv.AppendInt(nil, key.Int64(), 10))
}

type recordedConn struct {
	net.Conn
	record *record
}

func (c *recordedConn) Write(b []byte) (int, error) {
	c.record.mu.Lock()
	c.record.sent = append(c.record.sent, b...)
	c.record.mu.Unlock()
	return c.Conn.Write(b)
}

// A pool without a limit: however many keys are waited for, few connections
// are in use.
func TestWaitersOfAnUnlimitedPool(t *testing.T) {
	t.Parallel()
	for name, call := range waysToWait {
		t.Run(name, func(t *testing.T) {
			const keys, most = 150, 8
			dsn := newDatabase(t)
			watcher := openDB(t, dsn)
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			config.RuntimeParams["application_name"] = "waiters"
			var sent record
			sent.on(config)
			db, err := sql.Open("pgx", stdlib.RegisterConnConfig(config))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			l, crowd := xactlock.New(db), newCallers(t)
			for i, key := range heldKeys(t, watcher, keys) {
				crowd.add(func(ctx context.Context) error { return call(ctx, l, key) })
				// They come one after the other: each asks for its key first, with a
				// connection.
				until(t, "the call has asked", func() bool { return sent.names(key) })
				for began := time.Now(); db.Stats().InUse > most; time.Sleep(time.Millisecond) {
					if time.Since(began) > patience {
						t.Fatalf("%d callers use %d connections, want at most %d", i+1, db.Stats().InUse, most)
					}
				}
			}
			for range 50 {
				const idle = 2 // database/sql's default
				if n := number(t, watcher, `select count(*) from pg_stat_activity where datname = current_database() and application_name = 'waiters'`); n > most+idle {
					t.Fatalf("%d callers have %d sessions, want at most %d", keys, n, most+idle)
				}
			}
			if _, err := db.ExecContext(t.Context(), `select 1`); err != nil {
				t.Error(err)
			}
		})
	}
}
