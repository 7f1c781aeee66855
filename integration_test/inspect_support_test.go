package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// A lockerSession takes locks and waits for them. It ends with the test.
type lockerSession struct {
	conn *pgx.Conn

	// What the server says of it to itself.
	pid          int32
	user, client string
}

func newLockerSession(t *testing.T, dsn string, options ...func(*pgx.ConnConfig)) *lockerSession {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range options {
		option(config)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	s := &lockerSession{conn: conn}
	s.scan(t, `select pg_backend_pid(), current_user, concat(host(inet_client_addr()), ':', inet_client_port())`,
		&s.pid, &s.user, &s.client)
	return s
}

// setting has a session start with a setting of the server's.
func setting(name, value string) func(*pgx.ConnConfig) {
	return func(config *pgx.ConnConfig) { config.RuntimeParams[name] = value }
}

func (s *lockerSession) exec(t *testing.T, query string) {
	t.Helper()
	if _, err := s.conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func (s *lockerSession) scan(t *testing.T, query string, into ...any) {
	t.Helper()
	if err := s.conn.QueryRow(t.Context(), query).Scan(into...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// takes takes keys that are free, for the session.
func (s *lockerSession) takes(t *testing.T, shared bool, keys ...hashkey.Key) {
	t.Helper()
	for _, key := range keys {
		s.exec(t, lockQuery(shared, key))
	}
}

// waits has the session wait, until the end of the test, for a key that is
// held.
func (s *lockerSession) waits(t *testing.T, db *sql.DB, shared bool, key hashkey.Key) {
	t.Helper()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = s.conn.Exec(t.Context(), lockQuery(shared, key))
	}()
	t.Cleanup(func() { <-left })
	until(t, fmt.Sprintf("process %d waits", s.pid), func() bool {
		return number(t, db, `select count(*) from pg_locks
			where pid = $1 and not granted and waitstart is not null`, s.pid) == 1
	})
}

func lockQuery(shared bool, key hashkey.Key) string {
	return "select " + locksql.Call(locksql.Lock, shared, key)
}

func inspectLocks(t *testing.T, db inspect.Queryer) []inspect.Lock {
	t.Helper()
	found, err := inspect.Locks(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func inspectOf(t *testing.T, db inspect.Queryer, keys ...hashkey.Key) []inspect.Lock {
	t.Helper()
	found, err := inspect.Of(t.Context(), db, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// diffLocks compares all fields, the keys by name too, and takes times with
// different zones for the same.
func diffLocks(want, got []inspect.Lock) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(hashkey.Key{}),
		cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }))
}

// pidsOf returns the processes of locks, in their order.
func pidsOf(locks []inspect.Lock) []int32 {
	var pids []int32
	for _, lock := range locks {
		pids = append(pids, lock.PID)
	}
	return pids
}
