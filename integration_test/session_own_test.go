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
