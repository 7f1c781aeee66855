package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// waiting are all ways to wait for a lock, each through a pool of its own.
var waiting = map[string]func(ctx context.Context, db *sql.DB, key hashkey.Key) error{
	"WithTx": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).WithTx(ctx, key, nothing)
	},
	"WithTx repeatable read": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).With(xactlock.Options{Isolation: sql.LevelRepeatableRead}).WithTx(ctx, key, nothing)
	},
	"WithTx serializable": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).With(xactlock.Options{Isolation: sql.LevelSerializable}).WithTx(ctx, key, nothing)
	},
	"WithTx plain": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).With(xactlock.Options{Plain: true}).WithTx(ctx, key, nothing)
	},
	"WithTx plain serializable": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).With(xactlock.Options{Plain: true, Isolation: sql.LevelSerializable}).WithTx(ctx, key, nothing)
	},
	"WithTxAll": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).WithTxAll(ctx, []hashkey.Key{key, hashkey.Name("another")}, nothing)
	},
	"WithTxOf": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return withTxOf(ctx, db, xactlock.New(db), key, nothing)
	},
	"Exec": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		_, err := xactlock.New(db).Exec(ctx, key, `select $1::int`, 1)
		return err
	},
	"Lock": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return sessionlock.New(db).WithLock(ctx, key, func(context.Context, *sql.Conn) error { return nil })
	},
	"Lock shared": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		l := sessionlock.New(db).With(sessionlock.Options{Shared: true})
		return l.WithLock(ctx, key, func(context.Context, *sql.Conn) error { return nil })
	},
	"Lead": func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return sessionlock.New(db).Lead(ctx, key, func(context.Context) error { return nil })
	},
}

// Who waits holds no snapshot for longer than a second, lets the holder build an
// index concurrently, on the lock's own connection and on another one, and writes
// at most one line into the server's log.
func TestWaitersAreInNobodysWay(t *testing.T) {
	t.Parallel()
	for name, wait := range waiting {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Dedicated(t)
			watcher, waiters := openDB(t, server.DSN()), openDB(t, server.DSN())
			exec(t, watcher, `create table indexed (n int)`)
			key := hashkey.Name("k")
			k := lock(t, sessionlock.New(watcher), key)
			const n = 5
			done := make(chan error, 1)
			go func() {
				done <- parallel(n, func(int) error { return wait(t.Context(), waiters, key) })
			}()
			until(t, "they wait", func() bool { return waitingLocks(t, watcher) == n })
			for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(20 * time.Millisecond) {
				if age := number(t, watcher, oldestSnapshot); age >= 1000 {
					t.Fatalf("a waiter has held a snapshot for %d ms", age)
				}
			}
			for what, on := range map[string]interface {
				ExecContext(context.Context, string, ...any) (sql.Result, error)
			}{"the lock's own connection": k.Conn(), "another connection": watcher} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if _, err := on.ExecContext(ctx, `create index concurrently on indexed (n)`); err != nil {
					t.Errorf("create index concurrently on %s: %v", what, err)
				}
				cancel()
			}
			unlock(t, k)
			if err := <-done; err != nil {
				t.Error(err)
			}
			log, err := server.Log()
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(log, "ERROR:"); lines > n {
				t.Errorf("%d waiters wrote %d errors into the log:\n%s", n, lines, log)
			}
		})
	}
}

// oldestSnapshot is the age in milliseconds of the oldest transaction of another
// session of the database that has a snapshot.
const oldestSnapshot = `select coalesce(max(extract(epoch from clock_timestamp() - xact_start) * 1000), 0)::int
	from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_xmin is not null`

// VACUUM keeps a small table small while a candidate stands by.
func TestVacuumBesideACandidate(t *testing.T) {
	t.Parallel()
	grows := func(standBy bool) int {
		server := pgtest.Dedicated(t, "autovacuum = off")
		db := openDB(t, server.DSN())
		exec(t, db, `create table small (n int); insert into small select generate_series(1, 1000)`)
		exec(t, db, `vacuum small`)
		key := hashkey.Name("k")
		k := lock(t, sessionlock.New(db), key)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		if standBy {
			go func() {
				done <- sessionlock.New(db).Lead(ctx, key, func(context.Context) error { return nil })
			}()
			until(t, "the candidate waits", func() bool { return waitingLocks(t, db) == 1 })
		} else {
			done <- context.Canceled
		}
		for range 30 {
			exec(t, db, `update small set n = n + 1`)
			time.Sleep(300 * time.Millisecond)
			exec(t, db, `vacuum small`)
		}
		size := number(t, db, `select pg_relation_size('small')`)
		cancel()
		wantError(t, <-done, context.Canceled)
		unlock(t, k)
		return size
	}
	var without, with int
	var both sync.WaitGroup
	both.Go(func() { without = grows(false) })
	both.Go(func() { with = grows(true) })
	both.Wait()
	if with > 3*without { // a slice holds up a round or two
		t.Errorf("the table has %d bytes, and %d beside a candidate", without, with)
	}
}

// Of all goroutines that want one session lock one waits with a connection, and
// waiters for all keys leave half of the pool alone.
func TestSessionWaitersLeaveThePoolAlone(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	watcher := openSame(t, db)
	db.SetMaxOpenConns(10)
	l := sessionlock.New(db)
	held := sessionlock.New(watcher)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	wait := func(key hashkey.Key) {
		all.Go(func() {
			if _, err := l.Lock(ctx, key); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	one := hashkey.Name("one")
	locks := []*sessionlock.Lock{lock(t, held, one)}
	for range 50 {
		wait(one)
	}
	until(t, "one waits", func() bool { return waitingLocks(t, watcher) == 1 })
	if n := db.Stats().InUse; n > 2 {
		t.Errorf("%d connections are in use by waiters for one key", n)
	}
	for i := range 9 {
		locks = append(locks, lock(t, held, hashkey.Int64(int64(i))))
		wait(hashkey.Int64(int64(i)))
	}
	until(t, "five wait", func() bool { return waitingLocks(t, watcher) >= 5 })
	for range 50 {
		if n := waitingLocks(t, watcher); n > 5 {
			t.Fatalf("%d wait on the server", n)
		}
		exec(t, db, `select 1`)
	}
	k, err := l.TryLock(t.Context(), hashkey.Name("free"))
	if err != nil {
		t.Error(err)
	} else {
		unlock(t, k)
	}
	cancel()
	all.Wait()
	for _, k := range locks {
		unlock(t, k)
	}
	noTrace(t, db)
}

// A call that polls asks once more at its deadline. On a slow machine the answer
// may come too late.
func TestLastQuestionIsAtTheDeadline(t *testing.T) {
	t.Parallel()
	const wait, poll = time.Second, 5 * time.Second
	for name, test := range map[string]struct {
		call func(db *sql.DB, key hashkey.Key) error
		asks int // messages of a question that is refused
	}{
		"xactlock": {func(db *sql.DB, key hashkey.Key) error {
			return xactlock.New(db).With(xactlock.Options{Wait: wait, Poll: poll}).WithTx(t.Context(), key, nothing)
		}, 2},
		"sessionlock": {func(db *sql.DB, key hashkey.Key) error {
			l := sessionlock.New(db).With(sessionlock.Options{Wait: wait, Poll: poll})
			return l.WithLock(t.Context(), key, func(context.Context, *sql.Conn) error { return nil })
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m meter
			db, key := openMetered(t, newDatabase(t), &m), hashkey.Name("k")
			k := lock(t, sessionlock.New(openSame(t, db)), key)
			warm(t, db, 1)
			before := m.messages.Load()
			time.AfterFunc(200*time.Millisecond, func() { unlock(t, k) })
			err := test.call(db, key)
			if n := int(m.messages.Load() - before); err != nil && n < 2*test.asks {
				t.Errorf("%v, after %d messages", err, n)
			}
		})
	}
}
