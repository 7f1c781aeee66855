package integration_test

import (
	"context"
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

// Rule 13: a hot standby grants locks that exclude nobody on the primary.
func TestStandby(t *testing.T) {
	t.Parallel()
	standby := pgtest.Dedicated(t).Standby(t)
	var m meter
	db := openMetered(t, standby.DSN(), &m)
	refusesAll(t, db, xactlock.ErrStandby)
	sendsNothing(t, db, &m)
}

// A connection that has been in the pool since before a promotion has not heard
// of it, and who is refused sends nothing. The lock is to be had soon all the
// same.
func TestPromoted(t *testing.T) {
	t.Parallel()
	standby := pgtest.Dedicated(t).Standby(t)
	var m meter
	db, other := openMetered(t, standby.DSN(), &m), openDB(t, standby.DSN())
	db.SetMaxOpenConns(1)
	l := xactlock.New(db)
	key := hashkey.Name("promoted")
	for name, call := range map[string]func() error{
		"WithTx": func() error { return l.WithTx(t.Context(), key, nothing) },
		"Exec": func() error {
			_, err := l.Exec(t.Context(), key, `select 1`)
			return err
		},
	} {
		if err := call(); !errors.Is(err, xactlock.ErrStandby) {
			t.Fatalf("%s on a standby: %v", name, err)
		}
	}
	exec(t, other, `select pg_promote()`)
	until(t, "the lock is granted", func() bool { return l.WithTx(t.Context(), key, nothing) == nil })
	if _, err := l.Exec(t.Context(), key, `select 1`); err != nil {
		t.Error(err)
	}
	if n := m.dials.Load(); n > 3 {
		t.Errorf("%d connections for that, want at most 3", n)
	}
	noTrace(t, other, db)
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
			// A connection that is refused for more than a second is given up,
			// which may happen once, or on a slow machine a few times.
			var messages, dials int64
			for range 5 {
				warm(t, db, 1)
				refused(t, name, call)
				sent, dialed := m.messages.Load(), m.dials.Load()
				refused(t, name, call)
				messages, dials = m.messages.Load()-sent, m.dials.Load()-dialed
				if messages+dials == 0 {
					break
				}
			}
			if messages+dials > 0 {
				t.Errorf("%s: %d messages and %d connections, want none", name, messages, dials)
			}
		}
	}
}

func refused(t *testing.T, name string, call func(context.Context, xactlock.Func) error) {
	t.Helper()
	if err := call(t.Context(), unreachable(t)); err == nil {
		t.Errorf("%s: no error", name)
	}
}
