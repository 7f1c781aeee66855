package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// quick is how soon a loss is noticed in tests.
var quick = sessionlock.Options{Check: 20 * time.Millisecond}

// lock takes key, which must be free, and gives it back at the end of the test
// where the test has not.
func lock(tb testing.TB, l *sessionlock.Locker, key hashkey.Key) *sessionlock.Lock {
	tb.Helper()
	return lockUnder(tb.Context(), tb, l, key)
}

func lockUnder(ctx context.Context, tb testing.TB, l *sessionlock.Locker, key hashkey.Key) *sessionlock.Lock {
	tb.Helper()
	k, err := l.Lock(ctx, key)
	if err != nil {
		tb.Fatalf("lock %v: %v", key, err)
	}
	tb.Cleanup(func() { _ = k.Unlock() })
	return k
}

// unlock gives k back, which must be held.
func unlock(tb testing.TB, k *sessionlock.Lock) {
	tb.Helper()
	if err := k.Unlock(); err != nil {
		tb.Fatalf("unlock: %v", err)
	}
}

// wantError checks that err is each of wants.
func wantError(tb testing.TB, err error, wants ...error) {
	tb.Helper()
	for _, want := range wants {
		if !errors.Is(err, want) {
			tb.Errorf("error is %v, want one that is %q", err, want)
		}
	}
}

// isFree checks that a client that has nothing to do with the others gets key
// at once.
func isFree(tb testing.TB, db *sql.DB, key hashkey.Key) {
	tb.Helper()
	k, err := sessionlock.New(db).TryLock(context.Background(), key)
	if err != nil {
		tb.Fatalf("%v is not free: %v", key, err)
	}
	unlock(tb, k)
}

// becomesFree waits until it is.
func becomesFree(tb testing.TB, db *sql.DB, key hashkey.Key) {
	tb.Helper()
	until(tb, "the lock is free", func() bool {
		k, err := sessionlock.New(db).TryLock(context.Background(), key)
		if err != nil {
			wantError(tb, err, sessionlock.ErrNotAcquired)
			return false
		}
		unlock(tb, k)
		return true
	})
}

// lostWithin checks that k is noticed as lost within d.
func lostWithin(tb testing.TB, k *sessionlock.Lock, d time.Duration) {
	tb.Helper()
	start := time.Now()
	select {
	case <-k.Lost():
	case <-time.After(patience):
		tb.Fatal("the loss is not noticed")
	}
	took := time.Since(start)
	tb.Logf("noticed after %v", took)
	if took > d {
		tb.Errorf("the loss was noticed after %v, want within %v", took, d)
	}
	wantError(tb, k.Err(), sessionlock.ErrLost)
}

// notLost checks that k is still held.
func notLost(tb testing.TB, k *sessionlock.Lock) {
	tb.Helper()
	select {
	case <-k.Lost():
		tb.Fatalf("the lock counts as lost: %v", k.Unlock())
	default:
	}
	if err := k.Err(); err != nil {
		tb.Fatalf("Err: %v", err)
	}
}

// queryer is a *sql.DB or, behind connQueryer, a *sql.Conn.
type connQueryer struct{ *sql.Conn }

func (c connQueryer) QueryRow(query string, args ...any) *sql.Row {
	return c.QueryRowContext(context.Background(), query, args...)
}

// backend returns the pid of the session that holds k.
func backend(tb testing.TB, k *sessionlock.Lock) int {
	tb.Helper()
	return number(tb, connQueryer{k.Conn()}, `select pg_backend_pid()`)
}

// terminate ends a session as an administrator would.
func terminate(tb testing.TB, db *sql.DB, pid int) {
	tb.Helper()
	exec(tb, db, `select pg_terminate_backend($1)`, pid)
}

// silentFor waits until a session has sent nothing for d.
func silentFor(tb testing.TB, db *sql.DB, pid int, d time.Duration) {
	tb.Helper()
	until(tb, "the session was silent for "+d.String(), func() bool {
		return number(tb, db, `select count(*) from pg_stat_activity
			where pid = $1 and clock_timestamp() - state_change > $2 * interval '1 microsecond'`, pid, d.Microseconds()) == 1
	})
}

// two returns two pools on one database: ours, which takes the lock, and
// another, which looks on.
func two(tb testing.TB) (db, other *sql.DB) {
	tb.Helper()
	dsn := newDatabase(tb)
	return openDB(tb, dsn), openDB(tb, dsn)
}
