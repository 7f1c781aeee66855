package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// adminShutdown is what a session hears that pg_terminate_backend ends.
const adminShutdown = "57P01"

// kill ends a session and waits until it is gone.
func kill(tb testing.TB, db *sql.DB, pid int) {
	tb.Helper()
	exec(tb, db, `select pg_terminate_backend($1)`, pid)
	until(tb, "the session is gone", func() bool {
		return number(tb, db, `select count(*) from pg_stat_activity where pid = $1`, pid) == 0
	})
}

// The session of a holder is killed. Whether fn notices or not, the call is an
// error, and nothing is committed.
func TestSessionKilledInsideFn(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]xactlock.Func{
		"fn notices":       insert,
		"fn does not":      nothing,
		"fn hides it":      func(ctx context.Context, tx *sql.Tx) error { _ = insert(ctx, tx); return nil },
		"fn has no choice": func(ctx context.Context, tx *sql.Tx) error { return errExpected },
	} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				var own error
				err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					if err := insert(ctx, tx); err != nil {
						return err
					}
					kill(t, db, number(t, tx, `select pg_backend_pid()`))
					own = then(ctx, tx)
					return own
				})
				if err == nil || own != nil && !errors.Is(err, own) {
					t.Errorf("got %v, and fn returned %v", err, own)
				}
				if n := rows(t, db); n != 0 {
					t.Errorf("%d rows, want none", n)
				}
				if err := l.WithTx(t.Context(), hashkey.Name("k"), nothing); err != nil {
					t.Errorf("the next call: %v", err)
				}
			})
		})
	}
}

// The session of a waiter is killed: an error, with the driver's behind it.
func TestSessionKilledDuringTheWait(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		holder := hold(t, xactlock.New(db), hashkey.Name("k"))
		done := make(chan error, 1)
		go func() { done <- l.WithTx(t.Context(), hashkey.Name("k"), unreachable(t)) }()
		until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
		kill(t, db, number(t, db, `select pid from pg_locks where not granted and`+inThisDatabase))
		if err := <-done; sqlState(err) != adminShutdown || errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("got %v, want SQLSTATE %s", err, adminShutdown)
		}
		if err := holder.release(); err != nil {
			t.Error(err)
		}
	})
}

// Rule 9: the answer to COMMIT gets lost, because the connection is closed or
// because nothing comes any more. Here the server has committed.
func TestAnswerToCommitLost(t *testing.T) {
	t.Parallel()
	for _, hang := range []bool{false, true} {
		for path, o := range paths {
			t.Run(fmt.Sprintf("hang=%t/%s", hang, path), func(t *testing.T) {
				t.Parallel() // a connection that hangs is given five seconds
				db := newDB(t)
				exec(t, db, `create table t (n int)`)
				p, through := newProxy(t, dsnOf(t, db))
				pool := openDB(t, dsnOf(t, db), through)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				lost := &swallow{text: "commit", hang: hang, reached: make(chan struct{})}
				go func() {
					select {
					case <-lost.reached:
					case <-t.Context().Done():
					}
					cancel()
				}()
				var events []xactlock.Event
				o.Observe = func(e xactlock.Event) { events = append(events, e) }
				err := xactlock.New(pool).With(o).WithTx(ctx, hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					p.swallow.Store(lost)
					return insert(ctx, tx)
				})
				if !errors.Is(err, xactlock.ErrCommitUnknown) {
					t.Errorf("got %v, want ErrCommitUnknown", err)
				}
				if len(events) != 1 || events[0].Outcome != xactlock.Unknown {
					t.Errorf("events are %v, want one with the outcome unknown", events)
				}
				until(t, "the server has committed", func() bool { return rows(t, db) == 1 })
				noTrace(t, db, pool)
			})
		}
	}
}

// The server is stopped while it commits, in each of the ways there are. That
// it had not committed is known only to this test.
func TestServerStoppedDuringCommit(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	dsn := server.Database(t)
	for name, stop := range map[string]func(testing.TB){"stop": server.Stop, "crash": server.Crash} {
		for path, o := range paths {
			t.Run(name+"/"+path, func(t *testing.T) {
				watcher := openDB(t, dsn)
				exec(t, watcher, `drop table if exists t`)
				exec(t, watcher, `create table t (n int)`)
				exec(t, watcher, `create or replace function slow() returns trigger language plpgsql as 'begin perform pg_sleep(3600); return null; end'`)
				exec(t, watcher, `create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()`)
				done := make(chan error, 1)
				pool := openDB(t, dsn)
				go func() { done <- xactlock.New(pool).With(o).WithTx(t.Context(), hashkey.Name("k"), insert) }()
				untilOneSleeps(t, watcher)
				stop(t)
				if err := <-done; !errors.Is(err, xactlock.ErrCommitUnknown) {
					t.Errorf("got %v, want ErrCommitUnknown", err)
				}
				server.Restart(t)
				again := openDB(t, dsn)
				if n := rows(t, again); n != 0 {
					t.Errorf("%d rows, want none", n)
				}
				noTrace(t, again, pool)
			})
		}
	}
}

// The server is restarted between two calls, and every connection of the pool
// is dead: calls notice, and dial.
func TestServerRestartedBetweenCalls(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	dsn := server.Database(t)
	for path, o := range paths {
		for _, idle := range []int{1, 10} {
			t.Run(fmt.Sprintf("%s/%d idle", path, idle), func(t *testing.T) {
				db := openMetered(t, dsn, new(meter))
				warm(t, db, idle)
				if n := db.Stats().Idle; n < idle {
					t.Fatalf("%d idle connections, want %d", n, idle)
				}
				server.Restart(t)
				// The first asks for the lock, the others go straight into the
				// server's queue.
				l := xactlock.New(db).With(o)
				err := parallel(5, func(int) error { return l.WithTx(t.Context(), hashkey.Name("k"), nothing) })
				if err != nil {
					t.Error(err)
				}
				noTrace(t, openDB(t, dsn), db)
			})
		}
	}
}

// Rule 9: the server's lock table is full.
func TestLockTableFull(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t, "max_locks_per_transaction = 10", "max_connections = 20",
		"max_worker_processes = 0", "max_wal_senders = 0", "autovacuum_max_workers = 1")
	var keys []hashkey.Key
	for i := range 6000 {
		keys = append(keys, hashkey.Int64(int64(i)))
	}
	full := func(t *testing.T, err error) {
		t.Helper()
		var driver *pgconn.PgError
		if !errors.Is(err, xactlock.ErrLockTableFull) || !errors.As(err, &driver) || driver.Code != "53200" {
			t.Errorf("got %v, want ErrLockTableFull with the driver's error", err)
		}
	}
	dsn := server.Database(t)
	for path, o := range paths {
		t.Run(path, func(t *testing.T) {
			db := openDB(t, dsn)
			l := xactlock.New(db).With(o)
			full(t, l.WithTxAll(t.Context(), keys, unreachable(t)))
			noTrace(t, db)
			if o.Isolation != sql.LevelDefault {
				return // there the question, before any wait, is what fills the table
			}
			holder := hold(t, xactlock.New(db), keys[0]) // so that the call has to wait
			done := make(chan error, 1)
			go func() { done <- l.WithTxAll(t.Context(), keys, unreachable(t)) }()
			until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
			if err := holder.release(); err != nil {
				t.Error(err)
			}
			full(t, <-done)
			noTrace(t, db)
			if err := l.WithTxAll(t.Context(), keys[:10], nothing); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
	t.Run("own transaction", func(t *testing.T) {
		db := openDB(t, dsn)
		l := xactlock.New(db)
		full(t, inTx(db, func(tx *sql.Tx) error { return l.Lock(t.Context(), tx, keys...) }))
		noTrace(t, db)
		full(t, inTx(db, func(tx *sql.Tx) error { _, err := l.TryLock(t.Context(), tx, keys...); return err }))
		noTrace(t, db)
	})
}

// So it is where that happens between two slices of the wait.
func TestSessionKilledBetweenSlices(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		var armed atomic.Bool
		doomed := wrapping(func(c net.Conn) net.Conn {
			return &doomedConn{c, func() {
				if armed.CompareAndSwap(true, false) {
					kill(t, db, number(t, db, `select pid from pg_stat_activity where datname = current_database() and application_name = 'doomed'`))
				}
			}}
		})
		pool := openDB(t, dsnOf(t, db), doomed, func(config *pgx.ConnConfig) {
			config.RuntimeParams["application_name"] = "doomed"
		})
		holder := hold(t, xactlock.New(db), hashkey.Name("k"))
		done := make(chan error, 1)
		go func() {
			done <- xactlock.New(pool).With(paths[pathOf(t)]).WithTx(t.Context(), hashkey.Name("k"), unreachable(t))
		}()
		until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
		armed.Store(true)
		if err := <-done; sqlState(err) != adminShutdown || errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("got %v, want SQLSTATE %s", err, adminShutdown)
		}
		if err := holder.release(); err != nil {
			t.Error(err)
		}
	})
}

// doomedConn does something before it sends a message.
type doomedConn struct {
	net.Conn
	before func()
}

func (c *doomedConn) Write(b []byte) (int, error) {
	c.before()
	return c.Conn.Write(b)
}

// Rule 9: two holders ask for each other's lock. The server ends one of them.
func TestDeadlockInsideFn(t *testing.T) {
	t.Parallel()
	for path, o := range paths {
		if o.Isolation != sql.LevelDefault {
			continue // Lock refuses it
		}
		t.Run(path, func(t *testing.T) {
			db := newDB(t)
			alterDatabase(t, dsnOf(t, db), "deadlock_timeout", "50ms")
			pool := openSame(t, db)
			l := xactlock.New(pool).With(o)
			keys := []hashkey.Key{hashkey.Name("one"), hashkey.Name("two")}
			var errs [2]error
			both := make(chan struct{}, 2)
			_ = parallel(2, func(i int) error {
				errs[i] = l.WithTx(t.Context(), keys[i], func(ctx context.Context, tx *sql.Tx) error {
					both <- struct{}{}
					until(t, "both hold one", func() bool { return len(both) == 2 })
					return l.Lock(ctx, tx, keys[1-i])
				})
				return nil
			})
			victim := errs[0]
			if victim == nil {
				victim = errs[1]
			}
			if errs[0] != nil && errs[1] != nil {
				t.Errorf("both failed: %v and %v", errs[0], errs[1])
			}
			isDeadlock(t, victim)
			noTrace(t, db, pool)
		})
	}
}

func isDeadlock(t *testing.T, err error) {
	t.Helper()
	var driver *pgconn.PgError
	if !errors.Is(err, xactlock.ErrDeadlock) || !errors.As(err, &driver) || driver.Code != "40P01" {
		t.Errorf("got %v, want ErrDeadlock with the driver's error", err)
	}
}

// Rule 9: a wait for the grant is the one that the server ends.
func TestDeadlockDuringTheWait(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		alterDatabase(t, dsnOf(t, db), "deadlock_timeout", "50ms")
		pool := openSame(t, db)
		l = xactlock.New(pool).With(paths[pathOf(t)])
		// The call loses its place in the queue now and then. If that happens
		// just before the end of the circle, the other gets both locks.
		until(t, "the server ends the call", func() bool { return endsInADeadlock(t, db, l) })
		noTrace(t, db, pool)
	})
}

// endsInADeadlock makes a call of l wait for a transaction that waits for the call,
// and reports whether the server has ended it for that.
func endsInADeadlock(t *testing.T, db *sql.DB, l *xactlock.Locker) bool {
	t.Helper()
	one, two := hashkey.Int64(1), hashkey.Int64(2)
	// The order of arrival at the first lock is: this holder, the call, a
	// transaction that holds the second lock. So the call is the last to wait for
	// something, and the one whose wait closes the circle. The others do not look
	// for deadlocks.
	first := hold(t, xactlock.New(db), one)
	other, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()
	if _, err := other.Exec(`set local deadlock_timeout = '1h'; select pg_advisory_xact_lock(2)`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.WithTxAll(ctx, []hashkey.Key{one, two}, unreachable(t)) }()
	until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
	otherGot := make(chan error, 1)
	go func() { _, err := other.Exec(`select pg_advisory_xact_lock(1)`); otherGot <- err }()
	until(t, "the other waits, too", func() bool { return waitingLocks(t, db) == 2 })
	if err := errors.Join(first.release(), <-otherGot); err != nil {
		t.Error(err)
	}
	ended := false
	until(t, "the call has ended, or waits for the other", func() bool {
		select {
		case err := <-done:
			isDeadlock(t, err)
			ended = true
		default:
		}
		return ended || waitingLocks(t, db) == 1
	})
	if !ended {
		cancel()
		<-done
	}
	if err := other.Rollback(); err != nil {
		t.Error(err)
	}
	return ended
}

// soon is within what a person takes for at once, and machines that are busy
// with other things need.
const soon = patience / 3

// Rules 6 and 9: the network hangs while the question for the lock is on its
// way. ctx ends the call; the server, once it hears that the client is gone,
// frees whatever it had granted.
func TestNetworkHangsDuringTheTry(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		p, through := newProxy(t, dsnOf(t, db))
		pool := openDB(t, dsnOf(t, db), through)
		warm(t, pool, 1)
		for name, call := range calls(xactlock.New(pool).With(paths[pathOf(t)])) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			lost := &swallow{text: "pg_try_advisory", hang: true, reached: make(chan struct{})}
			p.swallow.Store(lost)
			done := make(chan error, 1)
			go func() { done <- call(ctx, unreachable(t)) }()
			received(t, "the question is sent", lost.reached)
			ended := time.Now()
			cancel()
			notAcquired(t, <-done, context.Canceled)
			if d := time.Since(ended); d > soon {
				t.Errorf("%s returned %v after the end of ctx", name, d)
			}
			noTrace(t, db, pool)
		}
	})
}

// The network hangs while a call rolls back. The call returns some time after ctx's
// end.
func TestNetworkHangsDuringTheRollback(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		t.Parallel() // it is given five seconds
		p, through := newProxy(t, dsnOf(t, db))
		pool := openDB(t, dsnOf(t, db), through)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		lost := &swallow{text: "rollback", hang: true, reached: make(chan struct{})}
		done := make(chan error, 1)
		go func() {
			done <- xactlock.New(pool).With(paths[pathOf(t)]).WithTx(ctx, hashkey.Name("k"), func(context.Context, *sql.Tx) error {
				p.swallow.Store(lost)
				return errExpected
			})
		}()
		received(t, "the rollback is sent", lost.reached)
		cancel()
		select {
		case err := <-done:
			wantError(t, err, errExpected)
		case <-time.After(patience):
			t.Error("the call hangs")
			p.cutAll()
			<-done
		}
		noTrace(t, db, pool)
	})
}

// Rule 9: the server does not even answer the first message.
func TestNetworkHangsDuringTheDial(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		p, through := newProxy(t, dsnOf(t, db))
		pool := openDB(t, dsnOf(t, db), through)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		lost := &swallow{text: "database\x00", hang: true, reached: make(chan struct{})}
		p.swallow.Store(lost)
		done := make(chan error, 1)
		go func() {
			done <- xactlock.New(pool).With(paths[pathOf(t)]).WithTx(ctx, hashkey.Name("k"), unreachable(t))
		}()
		received(t, "the connection is begun", lost.reached)
		ended := time.Now()
		cancel()
		notAcquired(t, <-done, context.Canceled)
		if d := time.Since(ended); d > soon {
			t.Errorf("returned %v after the end of ctx", d)
		}
	})
}

// No server at all is the driver's error, not ErrNotAcquired.
func TestNoServer(t *testing.T) {
	t.Parallel()
	p, through := newProxy(t, dsnOf(t, newDB(t)))
	p.listener.Close()
	db := openDB(t, pgtest.New(t).DSN(), through)
	for name, call := range calls(xactlock.New(db)) {
		t.Run(name, func(t *testing.T) {
			err := call(t.Context(), unreachable(t))
			var driver *pgconn.ConnectError
			if !errors.As(err, &driver) || errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("got %v, want the driver's error", err)
			}
		})
	}
}
