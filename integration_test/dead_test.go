package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Connections that have died in the pool, as all do when the server restarts,
// are no failure of the call that finds them there, be they ten. pgx does not
// find them first: it looks only at those that were idle for a while, and here
// at none.
func TestDeadInPool(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db, watcher := openMetered(t, dsn, new(meter)), openDB(t, dsn)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	pool := openPool(t, config)
	key := hashkey.Name("dead")
	session := func(o sessionlock.Options) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			return sessionlock.New(db).With(o).TryWithLock(ctx, key, func(context.Context, *sql.Conn) error { return nil })
		}
	}
	const idle = 10
	for name, call := range map[string]func(ctx context.Context) error{
		"sessionlock":           session(sessionlock.Options{}),
		"sessionlock shareable": session(sessionlock.Options{Shareable: true}),
		"xactlock":              func(ctx context.Context) error { return xactlock.New(db).TryWithTx(ctx, key, nothing) },
		"xactlock plain": func(ctx context.Context) error {
			return xactlock.New(db).With(xactlock.Options{Plain: true}).TryWithTx(ctx, key, nothing)
		},
		"Exec": func(ctx context.Context) error {
			_, err := xactlock.New(db).Exec(ctx, key, `select 1`)
			return err
		},
		"Lead": func(ctx context.Context) error {
			var failure error // of a campaign, after which Lead begins another one
			l := sessionlock.New(db).With(sessionlock.Options{Observe: func(e sessionlock.Event) { failure = errors.Join(failure, e.Err) }})
			return errors.Join(l.Lead(ctx, key, func(context.Context) error { return nil }), failure)
		},
		"pgxlock": func(ctx context.Context) error {
			return pgxlock.New(pool).TryWithTx(ctx, key, func(context.Context, pgx.Tx) error { return nil })
		},
	} {
		if name == "pgxlock" {
			warmPool(t, pool, idle)
		} else {
			warm(t, db, idle)
		}
		const others = ` from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`
		if n := number(t, watcher, `select count(pg_terminate_backend(pid))`+others); n < idle {
			t.Fatalf("%d sessions were there, want %d", n, idle)
		}
		until(t, "they are gone", func() bool { return number(t, watcher, `select count(*)`+others) == 0 })
		if err := call(bounded(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	noTrace(t, watcher, db)
}

// warmPool has pool make n connections.
func warmPool(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	for range n {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
}

// A waiter whose session is ended waits on another connection, as for one that has
// died in the pool.
func TestTerminatedWaiterWaitsOn(t *testing.T) {
	t.Parallel()
	db, watcher := two(t)
	key := hashkey.Name("k")
	var failed atomic.Bool
	session := sessionlock.New(db).With(sessionlock.Options{Observe: func(e sessionlock.Event) {
		if e.Kind == sessionlock.Failed {
			failed.Store(true)
		}
	}})
	shareable := session.Options()
	shareable.Shareable = true
	fn := func(context.Context, *sql.Conn) error { return nil }
	for name, call := range map[string]func(ctx context.Context) error{
		"WithLock":  func(ctx context.Context) error { return session.WithLock(ctx, key, fn) },
		"shareable": func(ctx context.Context) error { return session.With(shareable).WithLock(ctx, key, fn) },
		"WithSlot":  func(ctx context.Context) error { return session.WithSlot(ctx, key, 1, fn) },
		"Lead": func(ctx context.Context) error {
			return session.Lead(ctx, key, func(context.Context) error { return nil })
		},
	} {
		k := lock(t, sessionlock.New(watcher), key)
		done := make(chan error, 1)
		go func() { done <- call(bounded(t)) }()
		for range 3 {
			until(t, name+": a waiter is terminated", func() bool {
				return len(done) > 0 || number(t, watcher, `select count(pg_terminate_backend(pid, 60000)) from pg_locks where not granted and`+inThisDatabase) == 1
			})
		}
		unlock(t, k)
		if err := <-done; err != nil || failed.Load() {
			t.Errorf("%s: got %v, failed in between %t", name, err, failed.Load())
		}
	}
	noTrace(t, watcher, db)
}
