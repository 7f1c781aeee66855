package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// ownConn takes a connection of the test's own from a pool.
func ownConn(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
			t.Error(err)
		}
	})
	return conn
}

// text returns the one value that a query on conn returns, as text.
func text(t *testing.T, conn *sql.Conn, query string) string {
	t.Helper()
	var s string
	if err := conn.QueryRowContext(t.Context(), query).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

func TestLockConn(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	locker, key := sessionlock.New(db).With(quick), hashkey.Name("own")

	// The session of the caller's connection holds the lock, and no other
	// connection is used for it. The connection is as it was when Unlock returns.
	t.Run("held", func(t *testing.T) {
		conn := ownConn(t, db)
		const settings = `select current_setting('tcp_keepalives_count') || current_setting('client_connection_check_interval')`
		before, pid := text(t, conn, settings), text(t, conn, `select pg_backend_pid()`)
		k, err := locker.LockConn(t.Context(), conn, key)
		if err != nil {
			t.Fatal(err)
		}
		if k.Conn() != conn || db.Stats().InUse != 1 {
			t.Errorf("the lock is on another connection; %d are in use", db.Stats().InUse)
		}
		if n := text(t, conn, `select count(*) from pg_locks where granted and pid = pg_backend_pid() and`+inThisDatabase); n != "1" {
			t.Errorf("the session holds %s locks", n)
		}
		if text(t, conn, settings) == before {
			t.Error("DeadClient is not set on the session")
		}
		_, err = locker.TryLockConn(t.Context(), ownConn(t, db), key)
		wantError(t, err, sessionlock.ErrNotAcquired)
		unlock(t, k)
		isFree(t, db, key)
		if got := text(t, conn, settings); got != before {
			t.Errorf("settings are %s after Unlock, were %s", got, before)
		}
		if got := text(t, conn, `select pg_backend_pid()`); got != pid {
			t.Errorf("the connection is on session %s after Unlock, was on %s", got, pid)
		}
	})

	// A wait that ends leaves the caller its connection.
	t.Run("in vain", func(t *testing.T) {
		defer unlock(t, lock(t, sessionlock.New(openSame(t, db)), key))
		conn := ownConn(t, db)
		pid := text(t, conn, `select pg_backend_pid()`)
		hasty := locker.With(sessionlock.Options{Wait: 50 * time.Millisecond})
		_, err := hasty.LockConn(t.Context(), conn, key)
		wantError(t, err, sessionlock.ErrNotAcquired, context.DeadlineExceeded)
		if got := text(t, conn, `select pg_backend_pid()`); got != pid {
			t.Errorf("the connection is on session %s after the wait, was on %s", got, pid)
		}
	})

	// A wait goes on from slice to slice on the same connection.
	t.Run("in the end", func(t *testing.T) {
		k := lock(t, sessionlock.New(openSame(t, db)), key)
		conn := ownConn(t, db)
		granted := make(chan error, 1)
		go func() {
			mine, err := locker.LockConn(bounded(t), conn, key)
			if err == nil {
				err = mine.Unlock()
			}
			granted <- err
		}()
		pids := make(map[int32]bool)
		var starts []time.Time
		until(t, "there were two waits", func() bool {
			locks, err := inspect.Of(t.Context(), db, key)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range locks {
				if !l.Granted {
					pids[l.PID] = true
					if len(starts) == 0 || l.Since.After(starts[len(starts)-1]) {
						starts = append(starts, l.Since)
					}
				}
			}
			return len(starts) == 2
		})
		unlock(t, k)
		if err := <-granted; err != nil {
			t.Error(err)
		}
		if len(pids) != 1 {
			t.Errorf("%d sessions have waited", len(pids))
		}
	})

	// Unlock gives back its own lock, and nothing else that the session holds. The
	// settings stay until the last one is given back.
	t.Run("several", func(t *testing.T) {
		conn := ownConn(t, db)
		const settings = `select current_setting('tcp_keepalives_count') || ' ' || current_setting('idle_session_timeout')`
		before := text(t, conn, settings)
		text(t, conn, `select pg_advisory_lock(42)::text`)
		var locks []*sessionlock.Lock
		for _, name := range []string{"one", "two"} {
			k, err := locker.LockConn(t.Context(), conn, hashkey.Name(name))
			if err != nil {
				t.Fatal(err)
			}
			locks = append(locks, k)
		}
		for _, try := range []func(context.Context, *sql.Conn, hashkey.Key) (*sessionlock.Lock, error){
			locker.LockConn, locker.TryLockConn, sessionlock.New(openSame(t, db)).TryLockConn,
		} {
			if k, err := try(t.Context(), conn, hashkey.Name("two")); err == nil || errors.Is(err, sessionlock.ErrNotAcquired) {
				t.Errorf("a key that the connection has locked already: %v", err)
				if err == nil {
					locks = append(locks, k)
				}
			}
		}
		holding := text(t, conn, settings)
		unlock(t, locks[0])
		isFree(t, db, hashkey.Name("one"))
		notLost(t, locks[1])
		_, err := locker.TryLock(t.Context(), hashkey.Name("two"))
		wantError(t, err, sessionlock.ErrNotAcquired)
		if got := text(t, conn, settings); got != holding || got == before {
			t.Errorf("settings are %s, were %s, and %s without a lock", got, holding, before)
		}
		unlock(t, locks[1])
		isFree(t, db, hashkey.Name("two"))
		if got := text(t, conn, settings); got != before {
			t.Errorf("settings are %s after Unlock, were %s", got, before)
		}
		if text(t, conn, `select pg_advisory_unlock(42)::text`) != "true" {
			t.Error("the caller's own lock is gone")
		}
	})

	// The connection of a lock that goes back to the pool with it is no caller's own.
	t.Run("another lock's", func(t *testing.T) {
		err := locker.WithLock(t.Context(), key, func(ctx context.Context, conn *sql.Conn) error {
			if k, err := locker.LockConn(ctx, conn, hashkey.Name("inner")); err == nil {
				t.Error("it is accepted")
				unlock(t, k)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		conn := ownConn(t, db) // the same, and free now
		k, err := locker.LockConn(t.Context(), conn, key)
		if err != nil {
			t.Fatal(err)
		}
		unlock(t, k)
	})

	// Unlock returns when the connection is the caller's again, and that is when
	// MinHold is over, or the session.
	t.Run("min hold", func(t *testing.T) {
		const minHold = time.Second
		conn := ownConn(t, db)
		for _, o := range []sessionlock.Options{{MinHold: minHold}, {MinHold: time.Hour, Check: quick.Check}} {
			k, err := locker.With(o).LockConn(t.Context(), conn, key)
			granted := time.Now()
			if err != nil {
				t.Fatal(err)
			}
			if o.MinHold == minHold {
				unlock(t, k)
				if held := time.Since(granted); held < minHold*9/10 {
					t.Errorf("Unlock has returned after %v", held)
				}
				isFree(t, db, key)
				continue
			}
			pid := text(t, conn, `select pg_backend_pid()`)
			unlocked := make(chan error)
			go func() { unlocked <- k.Unlock() }()
			<-k.Lost()
			exec(t, db, `select pg_terminate_backend($1)`, pid)
			wantError(t, <-unlocked, sessionlock.ErrLost)
		}
	})

	// With the session goes the caller's connection.
	t.Run("lost", func(t *testing.T) {
		conn := ownConn(t, db)
		k, err := locker.LockConn(t.Context(), conn, key)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, `select pg_terminate_backend($1)`, text(t, conn, `select pg_backend_pid()`))
		lostWithin(t, k, patience)
		wantError(t, k.Unlock(), sessionlock.ErrLost)
		if _, err := conn.ExecContext(t.Context(), `select`); err == nil {
			t.Error("the connection goes on")
		}
		isFree(t, db, key)
	})

	t.Run("misuse", func(t *testing.T) {
		_, err := locker.LockConn(t.Context(), nil, key)
		if err == nil {
			t.Error("a nil connection is accepted")
		}
		conn := ownConn(t, db)
		if _, err := conn.ExecContext(t.Context(), `begin`); err != nil {
			t.Fatal(err)
		}
		if _, err := locker.TryLockConn(t.Context(), conn, key); err == nil {
			t.Error("a connection with a transaction is accepted")
		}
		if text(t, conn, `select 1`) != "1" {
			t.Error("the connection is not as it was")
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = locker.LockConn(t.Context(), conn, key)
		wantError(t, err, sql.ErrConnDone)
	})

	// Of a session that has ended, the error says how.
	t.Run("dead", func(t *testing.T) {
		conn := ownConn(t, db)
		exec(t, db, `select pg_terminate_backend($1)`, text(t, conn, `select pg_backend_pid()`))
		_, err := locker.LockConn(t.Context(), conn, key)
		if err == nil || errors.Is(err, sql.ErrConnDone) {
			t.Errorf("error is %v, want what the server or the network said", err)
		}
	})
	noTrace(t, db)
}
