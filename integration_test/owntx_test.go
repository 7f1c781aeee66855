package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// someKeys are several keys, in no order.
var someKeys = []hashkey.Key{hashkey.Pair(2, -2), hashkey.Name("k"), hashkey.Int64(-7), hashkey.Name("k")}

// begin begins a transaction, which is rolled back at the end of the test.
func begin(t *testing.T, db *sql.DB, o *sql.TxOptions) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// isUsable checks that tx goes on, and commits it.
func isUsable(t *testing.T, tx *sql.Tx) {
	t.Helper()
	if _, err := tx.Exec(`create table if not exists usable (n int); insert into usable values (1)`); err != nil {
		t.Errorf("the transaction is of no use any more: %v", err)
	}
	if err := tx.Commit(); err != nil {
		t.Errorf("commit: %v", err)
	}
}

// Rule 12: keys are taken in the caller's transaction and free at its end.
func TestOwnTransactionLocks(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, shared := range []bool{false, true} {
		l := xactlock.New(db).With(xactlock.Options{Shared: shared})
		for name, lock := range map[string]func(tx *sql.Tx) error{
			"Lock":    func(tx *sql.Tx) error { return l.Lock(t.Context(), tx, someKeys...) },
			"TryLock": func(tx *sql.Tx) error { return tryLock(t.Context(), l, tx, someKeys...) },
		} {
			for end, ending := range map[string]func(*sql.Tx) error{"Commit": (*sql.Tx).Commit, "Rollback": (*sql.Tx).Rollback} {
				t.Run(fmt.Sprintf("%s/shared=%t/%s", name, shared, end), func(t *testing.T) {
					tx := begin(t, db, nil)
					if err := lock(tx); err != nil {
						t.Fatal(err)
					}
					holds(t, tx, shared, someKeys[:3]...)
					if err := ending(tx); err != nil {
						t.Error(err)
					}
					noTrace(t, db)
				})
			}
		}
	}
}

// Rule 12: a TryLock that gets only some keys gives those back, keeps what tx
// held before, and tx can be used on.
func TestTryLockAllOrNothing(t *testing.T) {
	t.Parallel()
	for _, missing := range someKeys[:3] {
		t.Run(missing.String(), func(t *testing.T) {
			db := newDB(t)
			l := xactlock.New(db)
			before := hashkey.Int64(1)
			holder := hold(t, l, missing)
			tx := begin(t, db, nil)
			if err := tryLock(t.Context(), l, tx, before); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				ok, err := l.TryLock(t.Context(), tx, append([]hashkey.Key{before}, someKeys...)...)
				if ok || err != nil {
					t.Errorf("got %t, %v, want false", ok, err)
				}
				holds(t, tx, false, before)
			}
			if ok, err := l.TryLock(t.Context(), tx, missing); ok || err != nil {
				t.Errorf("one key: got %t, %v, want false", ok, err)
			}
			if err := holder.release(); err != nil {
				t.Error(err)
			}
			if err := tryLock(t.Context(), l, tx, someKeys...); err != nil {
				t.Errorf("once it is free: %v", err)
			}
			holds(t, tx, false, append([]hashkey.Key{before}, someKeys[:3]...)...)
			isUsable(t, tx)
			noTrace(t, db)
		})
	}
}

// Rule 12: taking what tx holds already succeeds, also what it holds shared
// while nobody else does.
func TestOwnTransactionLocksAgain(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db)
	tx := begin(t, db, nil)
	for range 2 {
		for _, err := range []error{
			l.Lock(t.Context(), tx, someKeys...),
			tryLock(t.Context(), l, tx, someKeys...),
			l.With(xactlock.Options{Shared: true}).Lock(t.Context(), tx, someKeys...),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	isUsable(t, tx)
	noTrace(t, db)
}

// Rule 12: Lock waits its turn, and what tx reads after it is fresh.
func TestLockWaits(t *testing.T) {
	t.Parallel()
	for _, poll := range []time.Duration{0, time.Millisecond} {
		t.Run(fmt.Sprintf("poll=%v", poll), func(t *testing.T) {
			var m meter
			db := newDB(t)
			pool := openMetered(t, dsnOf(t, db), &m)
			exec(t, db, `create table counter (n int)`)
			exec(t, db, `insert into counter values (0)`)
			first := begin(t, db, nil)
			l := xactlock.New(pool).With(xactlock.Options{Poll: poll})
			if err := l.Lock(t.Context(), first, someKeys...); err != nil {
				t.Fatal(err)
			}
			second := begin(t, pool, nil)
			sent := m.messages.Load()
			done := make(chan error, 1)
			go func() { done <- l.Lock(t.Context(), second, someKeys...) }()
			if poll == 0 {
				until(t, "the second waits", func() bool { return waitingLocks(t, db) == 1 })
			} else {
				until(t, "the second has asked often", func() bool { return m.messages.Load() > sent+10 })
				if n := waitingLocks(t, db); n != 0 {
					t.Errorf("%d wait on the server", n)
				}
			}
			if err := errors.Join(increment(t.Context(), first), first.Commit()); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			holds(t, second, false, someKeys[:3]...)
			if err := errors.Join(increment(t.Context(), second), second.Commit()); err != nil {
				t.Error(err)
			}
			if n := number(t, db, `select n from counter`); n != 2 {
				t.Errorf("n = %d after two increments", n)
			}
			noTrace(t, db, pool)
		})
	}
}

// Rules 9 and 12: however a wait ends, the error is ErrNotAcquired with why,
// and once tx is rolled back, nothing is left. A deadline costs no connection.
func TestLockWaitEnds(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		for _, poll := range []time.Duration{0, time.Millisecond} {
			t.Run(fmt.Sprintf("%s/poll=%v", ending.name, poll), func(t *testing.T) {
				var m meter
				db := newDB(t)
				pool := openMetered(t, dsnOf(t, db), &m)
				holder := hold(t, xactlock.New(db), someKeys[0])
				o := xactlock.Options{Poll: poll}
				ctx, cancel := ending.begin(t.Context(), &o)
				defer cancel()
				tx := begin(t, pool, nil)
				sent, dials := m.messages.Load(), m.dials.Load()
				done := make(chan error, 1)
				go func() { done <- xactlock.New(pool).With(o).Lock(ctx, tx, someKeys...) }()
				if ending.why == context.Canceled {
					until(t, "the call waits", func() bool { return m.messages.Load() > sent+3 || waitingLocks(t, db) == 1 })
					cancel()
				}
				notAcquired(t, <-done, ending.why)
				_ = tx.Rollback() // of what pgx may have closed
				if n := m.dials.Load() - dials; n != 0 && ending.why != context.Canceled {
					t.Errorf("it cost %d new connections", n)
				}
				if err := holder.release(); err != nil {
					t.Error(err)
				}
				noTrace(t, db, pool)
			})
		}
	}
}

// Rules 7 and 12: Wait is for all keys, also where the last is asked for late. Its
// end costs no connection.
func TestLockWaitIsForAllKeys(t *testing.T) {
	t.Parallel()
	const wait = 1500 * time.Millisecond
	for name, prepares := range map[string]bool{"one message": false, "a message for each": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m meter
			db := newDB(t)
			pool := openMetered(t, dsnOf(t, db), &m)
			pool.SetMaxOpenConns(1)
			early, late := hold(t, xactlock.New(db), hashkey.Int64(1)), hold(t, xactlock.New(db), hashkey.Int64(2))
			var tx xactlock.Tx = begin(t, pool, nil)
			if prepares {
				tx = apart{tx.(*sql.Tx)}
			}
			dials := m.dials.Load()
			done := make(chan error, 1)
			go func() {
				done <- xactlock.New(pool).With(xactlock.Options{Wait: wait}).Lock(t.Context(), tx, hashkey.Int64(2), hashkey.Int64(1))
			}()
			until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
			time.Sleep(2 * wait / 3) // so that the second key is asked for late
			if err := early.release(); err != nil {
				t.Error(err)
			}
			notAcquired(t, <-done, context.DeadlineExceeded)
			_ = tx.Rollback() // of what pgx may have closed
			isUsable(t, begin(t, pool, nil))
			if n := m.dials.Load() - dials; n != 0 {
				t.Errorf("it cost %d new connections", n)
			}
			if err := late.release(); err != nil {
				t.Error(err)
			}
			noTrace(t, db, pool)
		})
	}
}

// Rule 12: in a transaction that keeps one snapshot nothing is locked, and it
// can be used on.
func TestStaleSnapshot(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	serializable := newDB(t)
	alterDatabase(t, dsnOf(t, serializable), "default_transaction_isolation", "serializable")
	for name, test := range map[string]struct {
		db *sql.DB
		o  *sql.TxOptions
	}{
		"repeatable read":         {db, &sql.TxOptions{Isolation: sql.LevelRepeatableRead}},
		"serializable":            {db, &sql.TxOptions{Isolation: sql.LevelSerializable}},
		"read only":               {db, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true}},
		"serializable by default": {openSame(t, serializable), nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, keys := range [][]hashkey.Key{someKeys, someKeys[:1]} {
				for _, o := range []xactlock.Options{{}, {Shared: true}, {Poll: 1}, {Wait: time.Minute}} {
					l := xactlock.New(test.db).With(o)
					tx := begin(t, test.db, test.o)
					if err := l.Lock(t.Context(), tx, keys...); !errors.Is(err, xactlock.ErrStaleSnapshot) {
						t.Errorf("Lock: %v, want ErrStaleSnapshot", err)
					}
					if ok, err := l.TryLock(t.Context(), tx, keys...); ok || !errors.Is(err, xactlock.ErrStaleSnapshot) {
						t.Errorf("TryLock: %t, %v, want ErrStaleSnapshot", ok, err)
					}
					holds(t, tx, false)
					if test.o != nil && test.o.ReadOnly {
						_ = tx.Rollback()
						continue
					}
					isUsable(t, tx)
				}
			}
			noTrace(t, test.db)
		})
	}
}

// myTx is a program's own type around a transaction.
type myTx struct {
	*sql.Tx
	name string
}

// Rule 12: what embeds a *sql.Tx is a transaction as well.
func TestEmbeddedTransaction(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	tx := myTx{begin(t, db, nil), "mine"}
	l := xactlock.New(db)
	if err := l.Lock(t.Context(), tx, someKeys...); err != nil {
		t.Error(err)
	}
	if ok, err := l.TryLock(t.Context(), tx, hashkey.Int64(1)); !ok || err != nil {
		t.Errorf("got %t, %v", ok, err)
	}
	holds(t, tx.Tx, false, append([]hashkey.Key{hashkey.Int64(1)}, someKeys[:3]...)...)
	if _, err := xactlock.Token(t.Context(), tx); err != nil {
		t.Error(err)
	}
}

// apart is a transaction that takes one statement at a time, as gorm's does.
type apart struct{ *sql.Tx }

func (apart) GetDBConn() (*sql.DB, error) { return nil, errExpected }

// A transaction that has failed, or is over, locks nothing; the reason is the
// driver's.
func TestLockInAUselessTransaction(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db)
	ways := map[string]func(tx *sql.Tx) error{
		"Lock":    func(tx *sql.Tx) error { return l.Lock(t.Context(), tx, someKeys...) },
		"TryLock": func(tx *sql.Tx) error { _, err := l.TryLock(t.Context(), tx, someKeys...); return err },
		"one key": func(tx *sql.Tx) error { _, err := l.TryLock(t.Context(), tx, someKeys[0]); return err },
		"Token":   func(tx *sql.Tx) error { _, err := xactlock.Token(t.Context(), tx); return err },

		"Lock, apart":    func(tx *sql.Tx) error { return l.Lock(t.Context(), apart{tx}, someKeys...) },
		"TryLock, apart": func(tx *sql.Tx) error { _, err := l.TryLock(t.Context(), apart{tx}, someKeys...); return err },
		"one key, apart": func(tx *sql.Tx) error { _, err := l.TryLock(t.Context(), apart{tx}, someKeys[0]); return err },
	}
	for name, lock := range ways {
		t.Run(name, func(t *testing.T) {
			failed := begin(t, db, nil)
			_, _ = failed.Exec(`select 1/0`)
			var driver *pgconn.PgError
			if err := lock(failed); !errors.As(err, &driver) || driver.Code != "25P02" {
				t.Errorf("after a failed statement: %v, want SQLSTATE 25P02", err)
			}
			over := begin(t, db, nil)
			_ = over.Rollback()
			if err := lock(over); !errors.Is(err, sql.ErrTxDone) {
				t.Errorf("after Rollback: %v, want sql.ErrTxDone", err)
			}
			if name == "Token" {
				return // which locks nothing
			}
			ended := begin(t, db, nil)
			_, _ = ended.Exec(`commit`)
			if err := lock(ended); !errors.As(err, &driver) || driver.Code != "25P01" {
				t.Errorf("after COMMIT as text: %v, want SQLSTATE 25P01", err)
			}
		})
	}
	noTrace(t, db)
}
