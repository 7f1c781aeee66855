package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

var isolations = []sql.IsolationLevel{
	sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable,
}

// everyOption is Options in every combination that could change a message.
func everyOption() []xactlock.Options {
	var all []xactlock.Options
	for _, isolation := range isolations {
		for bits := range 32 {
			o := xactlock.Options{Isolation: isolation, Shared: bits&1 != 0, ReadOnly: bits&2 != 0}
			if bits&4 != 0 {
				o.MaxHold = time.Minute
			}
			if bits&8 != 0 {
				o.Wait = time.Minute
			}
			if bits&16 != 0 {
				o.Poll = time.Millisecond
			}
			all = append(all, o)
		}
	}
	return all
}

// An empty call costs two messages, whatever the options, directly and through
// PgBouncer.
func TestMessagesOfAnUncontendedCall(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	for _, route := range []struct {
		name string
		dsn  func(t *testing.T) string
	}{
		{"direct", func(*testing.T) string { return direct }},
		{"pgbouncer", func(t *testing.T) string { return pgtest.Bouncer(t, direct, "transaction") }},
	} {
		t.Run(route.name, func(t *testing.T) {
			var m meter
			db := openMetered(t, route.dsn(t), &m)
			db.SetMaxOpenConns(1)
			for _, o := range everyOption() {
				for name, call := range calls(xactlock.New(db).With(o)) {
					if err := call(t.Context(), nothing); err != nil { // and the connection is there
						t.Fatalf("%s %+v: %v", name, o, err)
					}
					if n := m.during(t, func() error { return call(t.Context(), nothing) }); n != 2 {
						t.Errorf("%s %+v: %d messages, want 2", name, o, n)
					}
				}
			}
			if n := m.dials.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// calls are the ways to run fn under a lock.
func calls(l *xactlock.Locker) map[string]func(context.Context, xactlock.Func) error {
	key, other := hashkey.Name("wire"), hashkey.Pair(1, 2)
	return map[string]func(context.Context, xactlock.Func) error{
		"WithTx":    func(ctx context.Context, fn xactlock.Func) error { return l.WithTx(ctx, key, fn) },
		"TryWithTx": func(ctx context.Context, fn xactlock.Func) error { return l.TryWithTx(ctx, key, fn) },
		"WithTxAll": func(ctx context.Context, fn xactlock.Func) error {
			return l.WithTxAll(ctx, []hashkey.Key{other, key, key}, fn)
		},
		"Value": func(ctx context.Context, fn xactlock.Func) error {
			_, err := xactlock.Value(ctx, l, key, func(ctx context.Context, tx *sql.Tx) (int, error) { return 1, fn(ctx, tx) })
			return err
		},
	}
}

// A cancellable ctx must not change what is sent.
func TestMessagesOfOtherCalls(t *testing.T) {
	t.Parallel()
	var m meter
	db := openMetered(t, newDatabase(t), &m)
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	locker := xactlock.New(db)
	keys := []hashkey.Key{hashkey.Name("a"), hashkey.Name("b")}
	for _, test := range []struct {
		name string
		want int
		call func() error
	}{
		{"cancellable", 2, func() error { return locker.WithTx(ctx, keys[0], nothing) }},
		{"fn fails", 2, func() error {
			err := locker.WithTx(ctx, keys[0], func(context.Context, *sql.Tx) error { return errExpected })
			return expect(errExpected, err)
		}},
		{"one statement", 3, func() error {
			return locker.WithTx(ctx, keys[0], func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `select 1`)
				return err
			})
		}},
		{"plain", 4, func() error { return locker.With(xactlock.Options{Plain: true}).WithTx(ctx, keys[0], nothing) }},
		{"Lock, one key", 3, func() error { return inTx(db, func(tx *sql.Tx) error { return locker.Lock(ctx, tx, keys[0]) }) }},
		{"Lock, two keys", 3, func() error { return inTx(db, func(tx *sql.Tx) error { return locker.Lock(ctx, tx, keys...) }) }},
		{"TryLock, one key", 3, func() error { return inTx(db, func(tx *sql.Tx) error { return tryLock(ctx, locker, tx, keys[0]) }) }},
		{"TryLock, two keys", 3, func() error { return inTx(db, func(tx *sql.Tx) error { return tryLock(ctx, locker, tx, keys...) }) }},
	} {
		if err := test.call(); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if n := m.during(t, test.call); n != test.want {
			t.Errorf("%s: %d messages, want %d", test.name, n, test.want)
		}
	}
}

func expect(want, got error) error {
	if !errors.Is(got, want) {
		return fmt.Errorf("got %v, want %w", got, want)
	}
	return nil
}

// inTx runs f in a transaction of database/sql's own and commits.
func inTx(db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func tryLock(ctx context.Context, l *xactlock.Locker, tx *sql.Tx, keys ...hashkey.Key) error {
	ok, err := l.TryLock(ctx, tx, keys...)
	if err == nil && !ok {
		err = errors.New("TryLock returned false")
	}
	return err
}
