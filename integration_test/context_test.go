package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// notAcquired checks rule 9: ErrNotAcquired, joined with why.
func notAcquired(t *testing.T, err, why error) {
	t.Helper()
	if !errors.Is(err, xactlock.ErrNotAcquired) || !errors.Is(err, why) {
		t.Errorf("got %v, want ErrNotAcquired joined with %v", err, why)
	}
}

// endings are how a wait ends: what ends it, and what the error must be.
var endings = []struct {
	name  string
	why   error
	begin func(ctx context.Context, o *xactlock.Options) (context.Context, context.CancelFunc)
}{
	{"cancel", context.Canceled, func(ctx context.Context, o *xactlock.Options) (context.Context, context.CancelFunc) {
		return context.WithCancel(ctx)
	}},
	{"deadline", context.DeadlineExceeded, func(ctx context.Context, o *xactlock.Options) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 100*time.Millisecond)
	}},
	{"Wait", context.DeadlineExceeded, func(ctx context.Context, o *xactlock.Options) (context.Context, context.CancelFunc) {
		o.Wait = 100 * time.Millisecond
		return context.WithCancel(ctx)
	}},
}

// Rules 6 and 9: however a wait on the server ends, the error is
// ErrNotAcquired with why, nobody waits there any more, and the connection
// goes back whole.
func TestWaitOnTheServerEnds(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		for _, keys := range [][]hashkey.Key{{hashkey.Name("k")}, {hashkey.Int64(math.MinInt64), hashkey.Name("k"), hashkey.Pair(7, 7)}} {
			t.Run(ending.name, func(t *testing.T) {
				onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
					holder := hold(t, xactlock.New(db), hashkey.Name("k"))
					o := paths[pathOf(t)]
					ctx, cancel := ending.begin(bounded(t), &o)
					defer cancel()
					warm(t, db, 3)
					dials := m.dials.Load()
					done := make(chan error, 1)
					go func() { done <- l.With(o).WithTxAll(ctx, keys, unreachable(t)) }()
					if ending.why == context.Canceled {
						until(t, "the call waits on the server", func() bool { return waitingLocks(t, db) == 1 })
						cancel()
					}
					notAcquired(t, <-done, ending.why)
					until(t, "nobody waits on the server", func() bool { return waitingLocks(t, db) == 0 })
					// pgx tells no driver-neutral way to cancel and keep a connection.
					if n := m.dials.Load() - dials; n != 0 && !(isPlain(t) && ending.why == context.Canceled) {
						// A cancel request is a connection of its own. The wait of a
						// busy machine may need one after a deadline, too.
						if n > 1 {
							t.Errorf("it cost %d new connections", n)
						}
					}
					if err := holder.release(); err != nil {
						t.Error(err)
					}
					if err := l.WithTxAll(t.Context(), keys, nothing); err != nil {
						t.Errorf("the next call: %v", err)
					}
				})
			})
		}
	}
}

// warm makes n idle connections.
func warm(tb testing.TB, db *sql.DB, n int) {
	tb.Helper()
	for range n {
		conn, err := db.Conn(context.Background())
		if err != nil {
			tb.Fatal(err)
		}
		defer conn.Close()
	}
}

// A cancelled wait loses no connection: the next statement on the pool finds
// the one session that was there.
func TestCancelledWaitKeepsItsConnection(t *testing.T) {
	t.Parallel()
	for name, o := range paths {
		if o.Plain {
			continue
		}
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			other := openSame(t, db)
			other.SetMaxOpenConns(1)
			pid := number(t, other, `select pg_backend_pid()`)
			hold(t, xactlock.New(db), hashkey.Name("k"))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- xactlock.New(other).With(o).WithTx(ctx, hashkey.Name("k"), unreachable(t)) }()
			until(t, "the call waits on the server", func() bool { return waitingLocks(t, db) == 1 })
			cancel()
			notAcquired(t, <-done, context.Canceled)
			if now := number(t, other, `select pg_backend_pid()`); now != pid {
				t.Errorf("session %d became %d", pid, now)
			}
		})
	}
}

// Rule 9: ctx that has ended before the call.
func TestContextEndedBefore(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(xactlock.New(db)) {
		t.Run(name, func(t *testing.T) { notAcquired(t, call(ctx, unreachable(t)), context.Canceled) })
	}
	t.Run("Lock", func(t *testing.T) {
		err := inTx(db, func(tx *sql.Tx) error { return xactlock.New(db).Lock(ctx, tx, hashkey.Name("k")) })
		notAcquired(t, err, context.Canceled)
	})
	t.Run("TryLock", func(t *testing.T) {
		err := inTx(db, func(tx *sql.Tx) error {
			_, err := xactlock.New(db).TryLock(ctx, tx, hashkey.Name("k"))
			return err
		})
		notAcquired(t, err, context.Canceled)
	})
}

// Rule 9: a wait for a connection of the pool is part of the wait.
func TestFullPool(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		t.Run(ending.name, func(t *testing.T) {
			db := newDB(t)
			watcher := openSame(t, db)
			db.SetMaxOpenConns(1)
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var o xactlock.Options
			ctx, cancel := ending.begin(bounded(t), &o)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- xactlock.New(db).With(o).WithTx(ctx, hashkey.Name("k"), unreachable(t)) }()
			if ending.why == context.Canceled {
				until(t, "the call waits for a connection", func() bool { return db.Stats().WaitCount == 1 })
				cancel()
			}
			notAcquired(t, <-done, ending.why)
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			noTrace(t, watcher, db)
		})
	}
}

// Rule 3: where ctx ends under a running statement, the statement is
// cancelled on the server, and not the connection, with the lock, on the
// client.
func TestLockOutlivesContextUnderAStatement(t *testing.T) {
	t.Parallel()
	const sleep = `select pg_sleep(3600)`
	for name, run := range map[string]func(context.Context, *sql.Tx) error{
		"exec": func(ctx context.Context, tx *sql.Tx) error { _, err := tx.ExecContext(ctx, sleep); return err },
		"query": func(ctx context.Context, tx *sql.Tx) error {
			var n int
			return tx.QueryRowContext(ctx, sleep).Scan(&n)
		},
		"rows": func(ctx context.Context, tx *sql.Tx) error {
			rows, err := tx.QueryContext(ctx, `select repeat('x', 8000) from generate_series(1, 1000) union all select pg_sleep(3600)::text`)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
			}
			return rows.Err()
		},
		"prepared": func(ctx context.Context, tx *sql.Tx) error {
			stmt, err := tx.Prepare(sleep)
			if err != nil {
				return err
			}
			_, err = stmt.ExecContext(ctx)
			return err
		},
		"Lock": func(ctx context.Context, tx *sql.Tx) error {
			return xactlock.New(new(sql.DB)).Lock(ctx, tx, hashkey.Name("other"))
		},
	} {
		for path, o := range paths {
			if o.Plain {
				continue // documented: there pgx closes the connection
			}
			if name == "Lock" && o.Isolation != sql.LevelDefault {
				continue // it refuses a transaction with one snapshot
			}
			t.Run(name+"/"+path, func(t *testing.T) {
				db := newDB(t)
				exec(t, db, `create table t (n int)`)
				if name == "Lock" {
					hold(t, xactlock.New(db), hashkey.Name("other"))
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				err := xactlock.New(db).With(o).WithTx(ctx, hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					if err := insert(ctx, tx); err != nil {
						return err
					}
					pid := number(t, tx, `select pg_backend_pid()`)
					go func() {
						until(t, "the statement runs", func() bool {
							return number(t, db, `select count(*) from pg_stat_activity where pid = $1 and state = 'active'
								and wait_event in ('PgSleep', 'advisory')`, pid) == 1
						})
						cancel()
					}()
					if err := run(ctx, tx); !errors.Is(err, context.Canceled) {
						t.Errorf("the statement: %v, want context.Canceled", err)
					}
					if n := number(t, db, `select count(*) from pg_locks where pid = $1 and granted and`+inThisDatabase, pid); n != 1 {
						t.Errorf("%d locks are held inside fn, want 1", n)
					}
					return nil
				})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want context.Canceled", err)
				}
				if n := rows(t, db); n != 0 {
					t.Errorf("%d rows, want none", n)
				}
			})
		}
	}
}
