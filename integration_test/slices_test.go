package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// wait waits for the lock of key, or for one of two slots, and gives it back.
type wait = func(ctx context.Context, key hashkey.Key) error

// waiting are all ways to wait for a lock. Each call of a way has a Locker of its
// own, so that it waits on the server.
var waiting = map[string]func(t *testing.T, dsn string) wait{
	"WithTx":                    withTx(xactlock.Options{}),
	"WithTx shared":             withTx(xactlock.Options{Shared: true}),
	"WithTx repeatable read":    withTx(xactlock.Options{Isolation: sql.LevelRepeatableRead}),
	"WithTx serializable":       withTx(xactlock.Options{Isolation: sql.LevelSerializable}),
	"WithTx plain":              withTx(xactlock.Options{Plain: true}),
	"WithTx plain serializable": withTx(xactlock.Options{Plain: true, Isolation: sql.LevelSerializable}),
	"WithTxAll": onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).WithTxAll(ctx, []hashkey.Key{key, hashkey.Name("another")}, nothing)
	}),
	"WithTxOf": onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return withTxOf(ctx, db, xactlock.New(db), key, nothing)
	}),
	"WithSlot":              withSlot(xactlock.Options{}),
	"WithSlot serializable": withSlot(xactlock.Options{Isolation: sql.LevelSerializable}),
	"WithSlot plain":        withSlot(xactlock.Options{Plain: true}),
	"Exec": onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		_, err := xactlock.New(db).Exec(ctx, key, `select $1::int`, 1)
		return err
	}),
	"pgx WithTx": onPool(func(ctx context.Context, pool *pgxpool.Pool, key hashkey.Key) error {
		return pgxlock.New(pool).WithTx(ctx, key, func(context.Context, pgx.Tx) error { return nil })
	}),
	"pgx WithSlot": onPool(func(ctx context.Context, pool *pgxpool.Pool, key hashkey.Key) error {
		return pgxlock.New(pool).WithSlot(ctx, key, 2, func(context.Context, pgx.Tx) error { return nil })
	}),
	"pgx Exec": onPool(func(ctx context.Context, pool *pgxpool.Pool, key hashkey.Key) error {
		_, err := pgxlock.New(pool).Exec(ctx, key, `select $1::int`, 1)
		return err
	}),
	"Lock":           withLock(sessionlock.Options{}),
	"Lock shared":    withLock(sessionlock.Options{Shared: true}),
	"Lock shareable": withLock(sessionlock.Options{Shareable: true}),
	"LockConn": onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		k, err := sessionlock.New(db).LockConn(ctx, conn, key)
		if err != nil {
			return err
		}
		return k.Unlock()
	}),
	"session WithSlot": onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return sessionlock.New(db).WithSlot(ctx, key, 2, func(context.Context, *sql.Conn) error { return nil })
	}),
	"Lead": onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return sessionlock.New(db).Lead(ctx, key, func(context.Context) error { return nil })
	}),
}

func onDB(call func(ctx context.Context, db *sql.DB, key hashkey.Key) error) func(*testing.T, string) wait {
	return func(t *testing.T, dsn string) wait {
		db := openDB(t, dsn)
		return func(ctx context.Context, key hashkey.Key) error { return call(ctx, db, key) }
	}
}

func onPool(call func(ctx context.Context, pool *pgxpool.Pool, key hashkey.Key) error) func(*testing.T, string) wait {
	return func(t *testing.T, dsn string) wait {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		pool := openPool(t, config)
		return func(ctx context.Context, key hashkey.Key) error { return call(ctx, pool, key) }
	}
}

func withTx(o xactlock.Options) func(*testing.T, string) wait {
	return onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).With(o).WithTx(ctx, key, nothing)
	})
}

func withSlot(o xactlock.Options) func(*testing.T, string) wait {
	return onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return xactlock.New(db).With(o).WithSlot(ctx, key, 2, nothing)
	})
}

func withLock(o sessionlock.Options) func(*testing.T, string) wait {
	return onDB(func(ctx context.Context, db *sql.DB, key hashkey.Key) error {
		return sessionlock.New(db).With(o).WithLock(ctx, key, func(context.Context, *sql.Conn) error { return nil })
	})
}

// Who waits for five seconds holds no snapshot for longer than a second (more only
// where the machine makes one of half a second longer, too), lets the holder build
// an index concurrently, on the lock's own connection and on another one, and writes
// at most one line into the server's log. There are five who wait, by each way.
func TestWaitersAreInNobodysWay(t *testing.T) {
	t.Parallel()
	const n = 5
	server := pgtest.Dedicated(t, "log_line_prefix = 'by %a: '", "max_connections = 300")
	db := openDB(t, server.DSN())
	exec(t, db, `create table indexed (n int)`)
	key := hashkey.Name("k")
	k, slot := lock(t, sessionlock.New(db), key), lock(t, sessionlock.New(db), key.Slot(1))
	var all sync.WaitGroup
	for way, open := range waiting {
		wait := open(t, server.DSN()+"&application_name="+url.PathEscape(way))
		all.Go(func() {
			if err := parallel(n, func(int) error { return wait(t.Context(), key) }); err != nil {
				t.Errorf("%s: %v", way, err)
			}
		})
	}
	for way := range waiting {
		until(t, "all wait by "+way, func() bool { // between two slices they do not
			return number(t, db, `select count(*) from pg_stat_activity where application_name = $1`, way) >= n
		})
	}
	noOldSnapshots(t, db, openDB(t, server.DSN()+"&application_name=half"))
	for what, on := range map[string]interface {
		ExecContext(context.Context, string, ...any) (sql.Result, error)
	}{"the lock's own connection": k.Conn(), "another connection": db} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, err := on.ExecContext(ctx, `create index concurrently on indexed (n)`); err != nil {
			t.Errorf("create index concurrently on %s: %v", what, err)
		}
		cancel()
	}
	unlock(t, k)
	unlock(t, slot)
	all.Wait()
	log, err := server.Log()
	if err != nil {
		t.Fatal(err)
	}
	for way := range waiting {
		if lines := strings.Count(log, "by "+way+": ERROR:"); lines > n {
			t.Errorf("%d waiters by %s wrote %d errors into the log:\n%s", n, way, lines, log)
		}
	}
}

// Lock, in a transaction of the caller's own, waits in one piece: with a holder that
// builds an index it is a deadlock, which the server ends. With Poll it is in
// nobody's way.
func TestLockBesideAnIndex(t *testing.T) {
	t.Parallel()
	for _, poll := range []time.Duration{0, 10 * time.Millisecond} {
		db, other := two(t)
		exec(t, other, `create table indexed (n int)`)
		key := hashkey.Name("index")
		k := lock(t, sessionlock.New(other), key)
		done := make(chan error, 1)
		go func() {
			locker := xactlock.New(db).With(xactlock.Options{Poll: poll})
			done <- inTx(db, func(tx *sql.Tx) error { return locker.Lock(context.Background(), tx, key) })
		}()
		until(t, "the other transaction has asked", func() bool {
			return number(t, other, `select count(*) from pg_stat_activity where pid <> pg_backend_pid()
				and datname = current_database() and query like '%pg%advisory_xact_lock%' and state <> 'idle'`) > 0
		})
		if poll == 0 {
			until(t, "it waits", func() bool { return waitingLocks(t, other) == 1 })
		}
		_, err := k.Conn().ExecContext(t.Context(), `create index concurrently on indexed (n)`)
		unlock(t, k)
		err = errors.Join(err, <-done) // the server chooses which of the two it ends
		if deadlock := sqlState(err) == "40P01"; deadlock != (poll == 0) {
			t.Errorf("Poll %v: got %v", poll, err)
		}
		if poll != 0 && err != nil {
			t.Error(err)
		}
	}
}

// noOldSnapshots checks for five seconds that no transaction of a pool with a name
// has a snapshot for longer than a second. On a machine that is slow, five of half
// a second, which the pool half makes meanwhile, say how much longer they may be
// there.
func noOldSnapshots(t *testing.T, db, half *sql.DB) {
	t.Helper()
	var over atomic.Bool
	var began time.Time
	if err := db.QueryRow(`select clock_timestamp()`).Scan(&began); err != nil {
		t.Fatal(err)
	}
	halves := make(chan error, 1)
	go func() {
		halves <- parallel(5, func(int) error {
			for !over.Load() {
				if err := sleepInTx(half); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	const ages = `select coalesce(max(age) filter (where application_name = 'half'), 0),
			coalesce(max(age) filter (where application_name <> 'half'), 0),
			coalesce(string_agg(application_name || ' for ' || age, ', ') filter (where application_name <> 'half' and age > 1), '')
		from (select application_name, extract(epoch from clock_timestamp() - xact_start)::float8 as age from pg_stat_activity
			where application_name <> '' and backend_xmin is not null and xact_start > $1) s`
	slowest, oldest, old := 0.5, 0.0, ""
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var half, one float64
		var which string
		if err := db.QueryRow(ages, began).Scan(&half, &one, &which); err != nil {
			t.Error(err)
			break
		}
		slowest = max(slowest, half)
		if one > oldest {
			oldest, old = one, which
		}
	}
	if oldest > 2*slowest {
		t.Errorf("snapshots that are held for long: %s; one of half a second for %v s", old, slowest)
	}
	over.Store(true)
	if err := <-halves; err != nil {
		t.Error(err)
	}
}

// sleepInTx holds a snapshot for half a second, and until the client has ended the
// transaction: as the waits of one snapshot do.
func sleepInTx(db *sql.DB) error {
	tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return err
	}
	_, err = tx.Exec(`select pg_sleep(0.5)`)
	return errors.Join(err, tx.Rollback())
}

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
	for name, o := range map[string]sessionlock.Options{"lock": {}, "shareable": {Shareable: true}} {
		t.Run(name, func(t *testing.T) { testSessionWaiters(t, o) })
	}
}

func testSessionWaiters(t *testing.T, o sessionlock.Options) {
	db := newDB(t)
	watcher := openSame(t, db)
	db.SetMaxOpenConns(10)
	l := sessionlock.New(db).With(o)
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
	if n := db.Stats().InUse; n > 2 { // the other one asks
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
