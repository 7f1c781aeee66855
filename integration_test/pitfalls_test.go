package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// This file shows the traps of docs/pitfalls.md, in SQL written by hand, and
// what the library does instead. If one of them stopped being a trap, the
// document would be wrong.

// query returns the one value that a query returns.
func query[T any](tb testing.TB, on interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, text string, args ...any) (value T) {
	tb.Helper()
	if err := on.QueryRowContext(context.Background(), text, args...).Scan(&value); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return value
}

// beginByHand returns a transaction by hand, which is rolled back at the end.
func beginByHand(tb testing.TB, db *sql.DB, isolation sql.IsolationLevel) *sql.Tx {
	tb.Helper()
	tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: isolation})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// mustExec runs a statement of a transaction by hand that must succeed.
func mustExec(tb testing.TB, tx *sql.Tx, text string) {
	tb.Helper()
	if _, err := tx.Exec(text); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
}

// An unlock on another session than the one that holds the lock returns
// false, is no error, and unlocks nothing.
func TestPitfallPooledUnlock(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	var conns [2]*sql.Conn
	for i := range conns {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	if !query[bool](t, conns[0], `select pg_try_advisory_lock(7)`) {
		t.Fatal("the lock is not granted")
	}
	if query[bool](t, conns[1], `select pg_advisory_unlock(7)`) {
		t.Error("another session has unlocked it")
	}
	if n := heldLocks(t, db); n != 1 {
		t.Errorf("%d locks are held, want 1", n)
	}
	if !query[bool](t, conns[0], `select pg_advisory_unlock(7)`) {
		t.Error("its own session cannot unlock it")
	}
}

// The statement that waits for the lock takes the snapshot, so that what the
// next holder reads is from before the wait. Lock refuses such a transaction.
func TestPitfallStaleSnapshot(t *testing.T) {
	t.Parallel()
	for _, isolation := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		t.Run(isolation.String(), func(t *testing.T) {
			db := newDB(t)
			exec(t, db, `create table counter (n int)`)
			exec(t, db, `insert into counter values (0)`)
			first, second := beginByHand(t, db, isolation), beginByHand(t, db, isolation)
			mustExec(t, first, `select pg_advisory_xact_lock(7)`)
			granted := make(chan error, 1)
			go func() {
				_, err := second.Exec(`select pg_advisory_xact_lock(7)`)
				granted <- err
			}()
			until(t, "the second one waits", func() bool { return waitingLocks(t, db) == 1 })
			mustExec(t, first, `update counter set n = n + 1`)
			if err := errors.Join(first.Commit(), <-granted); err != nil {
				t.Fatal(err)
			}
			if n := number(t, second, `select n from counter`); n != 0 {
				t.Errorf("the second holder reads %d, want the stale 0", n)
			}
			refused := beginByHand(t, db, isolation)
			if err := xactlock.New(db).Lock(t.Context(), refused, hashkey.Name("k")); !errors.Is(err, xactlock.ErrStaleSnapshot) {
				t.Errorf("Lock: %v, want ErrStaleSnapshot", err)
			}
			if n := number(t, refused, `select n from counter`); n != 1 {
				t.Errorf("after the refusal the transaction reads %d, want 1", n)
			}
		})
	}
}

// The server detects no deadlock between a session that waits and one whose
// client waits for it. WithTx refuses to get there.
func TestPitfallNestedCall(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	outer, inner := beginByHand(t, db, sql.LevelDefault), beginByHand(t, db, sql.LevelDefault)
	mustExec(t, outer, `select pg_advisory_xact_lock(7)`)
	mustExec(t, inner, `set local deadlock_timeout = '10ms'; set local lock_timeout = '300ms'`)
	_, err := inner.Exec(`select pg_advisory_xact_lock(7)`)
	const lockNotAvailable = "55P03" // 40P01 would be a deadlock that was detected
	if code := sqlState(err); code != lockNotAvailable {
		t.Errorf("by hand: %v, want SQLSTATE %s", err, lockNotAvailable)
	}

	l := xactlock.New(db)
	err = l.WithTx(t.Context(), hashkey.Name("a"), func(ctx context.Context, tx *sql.Tx) error {
		for _, name := range []string{"a", "b"} {
			if err := l.WithTx(ctx, hashkey.Name(name), unreachable(t)); !errors.Is(err, xactlock.ErrNested) {
				t.Errorf("a nested call for %q: %v, want ErrNested", name, err)
			}
		}
		return l.Lock(ctx, tx, hashkey.Name("a"), hashkey.Name("b"))
	})
	if err != nil {
		t.Error(err)
	}
}

// A transaction's lock that is taken outside a transaction is free as soon as
// the statement is over, and one whose transaction is committed is free then.
func TestPitfallLostByCommit(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `select pg_advisory_xact_lock(7)`)
	if n := heldLocks(t, db); n != 0 {
		t.Errorf("%d locks are held after a statement outside a transaction, want none", n)
	}
	tx := beginByHand(t, db, sql.LevelDefault)
	mustExec(t, tx, `select pg_advisory_xact_lock(7)`)
	mustExec(t, tx, `commit; begin`)
	if n := heldLocks(t, db); n != 0 {
		t.Errorf("%d locks are held after a commit, want none", n)
	}
}

// PostgreSQL frees a transaction's locks when a statement fails, and not at
// the ROLLBACK that follows, unless the statement came after a savepoint.
func TestPitfallFailedStatement(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db)
	for name, test := range map[string]struct {
		lock func(tx *sql.Tx) error
		want int
	}{
		"by hand": {func(tx *sql.Tx) error { _, err := tx.Exec(`select pg_advisory_xact_lock(7)`); return err }, 0},
		"Lock":    {func(tx *sql.Tx) error { return l.Lock(t.Context(), tx, hashkey.Name("k")) }, 0},
		"Lock and a savepoint": {func(tx *sql.Tx) error {
			if err := l.Lock(t.Context(), tx, hashkey.Name("k")); err != nil {
				return err
			}
			_, err := tx.Exec(`savepoint mine`)
			return err
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			tx := beginByHand(t, db, sql.LevelDefault)
			if err := test.lock(tx); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(`select 1/0`); err == nil {
				t.Fatal("1/0 is a number")
			}
			if n := heldLocks(t, db); n != test.want {
				t.Errorf("%d locks are held after the error, want %d", n, test.want)
			}
			if err := tx.Rollback(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Waiters that each hold a connection leave none for work that needs no lock
// at all.
func TestPitfallWaitingWithThePool(t *testing.T) {
	t.Parallel()
	const poolSize = 4
	db := newDB(t)
	watcher := openSame(t, db)
	db.SetMaxOpenConns(poolSize)
	holder := hold(t, xactlock.New(watcher), hashkey.Int64(7))
	done := make(chan error, 1)
	go func() {
		done <- parallel(poolSize, func(int) error {
			return inTx(db, func(tx *sql.Tx) error { _, err := tx.Exec(`select pg_advisory_xact_lock(7)`); return err })
		})
	}()
	until(t, "all connections wait", func() bool { return waitingLocks(t, watcher) == poolSize })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, `select 1`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a statement that needs no lock: %v, want context.DeadlineExceeded", err)
	}
	if err := errors.Join(holder.release(), <-done); err != nil {
		t.Error(err)
	}
}

// Through a pooler in transaction mode, a second client gets the session that
// holds the first one's lock, and so the lock. A transaction's lock is safe.
func TestPitfallPooler(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	dsn := pgtest.Bouncer(t, direct, "transaction")
	a, b := openDB(t, dsn), openDB(t, dsn)
	for name, client := range map[string]*sql.DB{"one": a, "another": b} {
		client.SetMaxOpenConns(1)
		if !query[bool](t, client, `select pg_try_advisory_lock('7'::bigint)`) {
			t.Errorf("client %s is refused", name)
		}
	}
	exec(t, a, `select pg_advisory_unlock_all()`)

	holder := hold(t, xactlock.New(a), hashkey.Name("k"))
	if err := xactlock.New(b).TryWithTx(t.Context(), hashkey.Name("k"), unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
		t.Errorf("a second client of xactlock: %v, want ErrNotAcquired", err)
	}
	if err := holder.release(); err != nil {
		t.Error(err)
	}
	noTrace(t, openDB(t, direct))
}

// now() is when the transaction began, which is before the wait;
// clock_timestamp() is after it. A wait in slices is one in several transactions, and on
// a slow machine the last slice may begin just before the grant.
func TestPitfallNow(t *testing.T) {
	t.Parallel()
	const wait = 200 * time.Millisecond
	onEachPath(t, func(t *testing.T, db *sql.DB, _ *meter, l *xactlock.Locker) {
		until(t, "now() is behind by the wait", func() bool {
			return nowBehind(t, db, l, wait) >= wait || pathOf(t) == "plain serializable" // which waits before BEGIN
		})
	})
}

// nowBehind returns how far now() is behind for a holder that has waited.
func nowBehind(t *testing.T, db *sql.DB, l *xactlock.Locker, wait time.Duration) time.Duration {
	t.Helper()
	holder := hold(t, xactlock.New(db), hashkey.Name("k"))
	var behind, clock time.Time
	done := make(chan error, 1)
	go func() {
		done <- l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			return tx.QueryRowContext(ctx, `select now(), clock_timestamp()`).Scan(&behind, &clock)
		})
	}()
	until(t, "the call has waited", func() bool {
		return number(t, db, `select count(*) from pg_locks where not granted
			and waitstart < clock_timestamp() - $1 * interval '1 ms' and`+inThisDatabase, wait.Milliseconds()) == 1
	})
	if err := errors.Join(holder.release(), <-done); err != nil {
		t.Fatal(err)
	}
	return clock.Sub(behind)
}
