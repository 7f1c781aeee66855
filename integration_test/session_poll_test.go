package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// CREATE INDEX CONCURRENTLY waits for every snapshot that is older than
// itself. A waiter that polls has none: the holder finishes, and then they do.
func TestSessionPollLetsIndexThrough(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	exec(t, other, `create table indexed (n int)`)
	key := hashkey.Name("index")
	polling := sessionlock.New(db).With(sessionlock.Options{Poll: 10 * time.Millisecond})
	k := lock(t, sessionlock.New(other), key)
	done := make(chan error, 1)
	go func() {
		done <- parallel(10, func(int) error {
			return polling.WithLock(t.Context(), key, func(context.Context, *sql.Conn) error { return nil })
		})
	}()
	until(t, "they poll", func() bool { return number(t, other, pollers) > 0 })
	if _, err := k.Conn().ExecContext(t.Context(), `create index concurrently on indexed (n)`); err != nil {
		t.Error(err)
	}
	unlock(t, k)
	if err := <-done; err != nil {
		t.Error(err)
	}
	noTrace(t, db, other)
}

// Between two questions a waiter that polls has no connection, so that many of
// them do not take the pool away from everybody else.
func TestSessionPollKeepsNoConnection(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	db.SetMaxOpenConns(1)
	key := hashkey.Name("asleep")
	k := lock(t, sessionlock.New(other), key)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := sessionlock.New(db).With(sessionlock.Options{Poll: time.Hour}).Lock(ctx, key)
		done <- err
	}()
	until(t, "it has asked", func() bool { return number(t, other, pollers) == 1 })
	until(t, "its connection is back in the pool", func() bool { return db.Stats().InUse == 0 })
	exec(t, db, `select 1`)
	cancel()
	wantError(t, <-done, sessionlock.ErrNotAcquired, context.Canceled)
	unlock(t, k)
	noTrace(t, db, other)
}

const pollers = `select count(*) from pg_stat_activity
	where datname = current_database() and query like '%pg_try_advisory_lock%' and pid <> pg_backend_pid()`
