package integration_test

import (
	"database/sql"
	"errors"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// refusesAll checks that every way to take a lock through db is refused with
// want.
func refusesAll(t *testing.T, db *sql.DB, want error) {
	for path, o := range paths {
		for _, o.Shared = range []bool{false, true} {
			for name, call := range calls(xactlock.New(db).With(o)) {
				if err := call(t.Context(), unreachable(t)); !errors.Is(err, want) {
					t.Errorf("%s, %s: %v, want %v", path, name, err, want)
				}
			}
		}
	}
	l := xactlock.New(db)
	if _, err := l.Exec(t.Context(), someKeys[0], `select 1`); !errors.Is(err, want) {
		t.Errorf("Exec: %v, want %v", err, want)
	}
	if err := l.WithSlot(t.Context(), someKeys[0], 3, unreachable(t)); !errors.Is(err, want) {
		t.Errorf("WithSlot: %v, want %v", err, want)
	}
	for _, keys := range [][]hashkey.Key{someKeys, someKeys[:1]} {
		tx := begin(t, db, nil)
		if err := l.Lock(t.Context(), tx, keys...); !errors.Is(err, want) {
			t.Errorf("Lock: %v, want %v", err, want)
		}
		if ok, err := l.TryLock(t.Context(), tx, keys...); ok || !errors.Is(err, want) {
			t.Errorf("TryLock: %t, %v, want %v", ok, err, want)
		}
		if err := l.With(xactlock.Options{Poll: 1}).Lock(t.Context(), tx, keys...); !errors.Is(err, want) {
			t.Errorf("Lock with Poll: %v, want %v", err, want)
		}
		holds(t, tx, false)
		if err := tx.Commit(); err != nil {
			t.Errorf("the transaction is of no use any more: %v", err)
		}
	}
	noTrace(t, db)
}

// Rule 13: a hot standby grants locks that exclude nobody on the primary. Once it is
// promoted, the same connections have its locks.
func TestStandby(t *testing.T) {
	t.Parallel()
	standby := pgtest.Dedicated(t).Standby(t)
	db := openDB(t, standby.DSN())
	refusesAll(t, db, xactlock.ErrStandby)
	exec(t, db, `select pg_promote()`)
	locksAll(t, db)
}

// A pooler remembers what kind of server it was once connected to. That counts for
// nothing: neither where the server has become a standby, nor where it was one.
func TestStandbyBehindAPooler(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	standby := server.Standby(t)
	db := openDB(t, pgtest.Bouncer(t, server.DSN(), "transaction"))
	locksAll(t, db)

	server.Stop(t)
	wantNoError(t, standby.Control(t.Context(), "promote", "-w"))
	wantNoError(t, server.Follow(t.Context(), standby))
	until(t, "the pooler has connected anew", func() bool { return db.Ping() == nil })
	refusesAll(t, db, xactlock.ErrStandby)

	exec(t, db, `select pg_promote()`)
	locksAll(t, db)
}

// locksAll checks that all calls have their locks.
func locksAll(t *testing.T, db *sql.DB) {
	t.Helper()
	for name, call := range calls(xactlock.New(db)) {
		if err := call(t.Context(), nothing); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := xactlock.New(db).Exec(t.Context(), hashkey.Name("k"), `select 1`)
	wantNoError(t, err)
}

// Rule 13: CockroachDB, which has the functions and locks nothing, says what
// it is when a session begins. The plain path has to ask it; here the question
// is changed on the way into one that this server answers in the same way.
func TestCockroachDB(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	_, through := newProxy(t, dsn, func(p *proxy) {
		p.inject = parameterStatus("crdb_version", "CockroachDB CCL v25.2.0")
		p.rewrite.Store(&[2]string{"crdb_version", "lock_timeout"})
	})
	var m meter
	db := openMetered(t, dsn, &m, through)
	refusesAll(t, db, xactlock.ErrUnsupportedServer)
	sendsNothing(t, db, &m)
}

// sendsNothing checks that a call which is refused is so without a message.
func sendsNothing(t *testing.T, db *sql.DB, m *meter) {
	t.Helper()
	for _, isolation := range isolations {
		for name, call := range calls(xactlock.New(db).With(xactlock.Options{Isolation: isolation})) {
			warm(t, db, 1)
			sent, dialed := m.messages.Load(), m.dials.Load()
			if err := call(t.Context(), unreachable(t)); err == nil {
				t.Errorf("%s: no error", name)
			}
			if messages, dials := m.messages.Load()-sent, m.dials.Load()-dialed; messages+dials > 0 {
				t.Errorf("%s: %d messages and %d connections, want none", name, messages, dials)
			}
		}
	}
}
