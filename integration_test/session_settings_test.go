package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// settingsOf returns all settings of db's next session, and where they come
// from.
func settingsOf(tb testing.TB, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}) map[string]string {
	tb.Helper()
	rows, err := db.QueryContext(context.Background(), `select name, setting, source from pg_settings`)
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	settings := make(map[string]string)
	for rows.Next() {
		var name, value, source string
		if err := rows.Scan(&name, &value, &source); err != nil {
			tb.Fatal(err)
		}
		settings[name] = value + " (" + source + ")"
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return settings
}

// The settings of the session are changed while it holds the lock, and are as
// they were when it is back in the pool, those that somebody has set as well.
func TestSessionSettings(t *testing.T) {
	t.Parallel()
	for _, options := range []sessionlock.Options{{}, {Poll: time.Second}, {Pooler: true, Wait: time.Minute}} {
		db := newDB(t)
		db.SetMaxOpenConns(1)
		exec(t, db, `set tcp_user_timeout = 7000`)
		exec(t, db, `set idle_session_timeout = '9 min'`)
		before := settingsOf(t, db)
		options.DeadClient = 18 * time.Second
		k := lock(t, sessionlock.New(db).With(options), hashkey.Name("settings"))
		during := settingsOf(t, k.Conn())
		changed := make(map[string]string)
		for name, value := range during {
			if value != before[name] {
				changed[name] = value
			}
		}
		want := map[string]string{
			"tcp_keepalives_idle":              "9 (session)",
			"tcp_keepalives_interval":          "3 (session)",
			"tcp_keepalives_count":             "3 (session)",
			"tcp_user_timeout":                 "18000 (session)",
			"client_connection_check_interval": "3000 (session)",
			"idle_session_timeout":             "0 (session)",
		}
		if diff := cmp.Diff(want, changed); diff != "" {
			t.Errorf("%+v: while it is held: %s", options, diff)
		}
		unlock(t, k)
		if diff := cmp.Diff(before, settingsOf(t, db)); diff != "" {
			t.Errorf("%+v: afterwards: %s", options, diff)
		}
		noTrace(t, db)
	}
}

// A client that vanishes while it waits does not stay in the queue, where it
// would be granted the lock some day and keep it. Without its settings the
// server looks at nobody's socket while it waits for the lock.
func TestSessionVanishedWaiter(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	other := openDB(t, dsn)
	p, through := newProxy(t, dsn)
	db := openDB(t, dsn, through)
	key := hashkey.Name("vanished")
	k := lock(t, sessionlock.New(other), key)
	done := make(chan error, 1)
	go func() {
		_, err := sessionlock.New(db).With(sessionlock.Options{DeadClient: time.Second}).Lock(t.Context(), key)
		done <- err
	}()
	until(t, "it waits", func() bool { return waitingLocks(t, other) == 1 })
	if err := p.listener.Close(); err != nil { // nor does it come back
		t.Fatal(err)
	}
	p.cutAll()
	if err := <-done; err == nil {
		t.Error("the lock was granted to a client without a connection")
	}
	until(t, "it waits no more", func() bool { return waitingLocks(t, other) == 0 })
	unlock(t, k)
	noTrace(t, other, db)
}

// A role's idle_session_timeout does not end a holder that has nothing to say.
func TestSessionIdleTimeoutOfTheRole(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	other := openDB(t, dsn)
	exec(t, other, `do $$ begin execute format('alter database %I set idle_session_timeout = ''200ms''', current_database()); end $$`)
	k := lock(t, sessionlock.New(openDB(t, dsn)), hashkey.Name("idle"))
	silentFor(t, other, backend(t, k), time.Second)
	notLost(t, k)
	unlock(t, k)
}
