package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// pausedUnlock is a schema whose name is as long as pg_catalog, with an unlock
// that waits for the lock 7 first.
const pausedUnlock = `
create schema test_pause;
create function test_pause.pg_advisory_unlock(bigint) returns boolean language plpgsql as
	'begin perform pg_advisory_xact_lock(7); return pg_catalog.pg_advisory_unlock($1); end'`

// At SERIALIZABLE, PostgreSQL frees a transaction's locks a moment before it
// takes the transaction for over. So the lock is held until after COMMIT: here
// the network makes that moment last.
func TestLockOutlivesCommitAtSerializable(t *testing.T) {
	t.Parallel()
	for path, o := range paths {
		if o.Isolation != sql.LevelSerializable {
			continue
		}
		t.Run(path, func(t *testing.T) {
			db := newDB(t)
			exec(t, db, `create table t (n int)`)
			exec(t, db, pausedUnlock)
			p, through := newProxy(t, dsnOf(t, db))
			pool := openDB(t, dsnOf(t, db), through)
			pause := hold(t, xactlock.New(db), hashkey.Int64(7))
			done := make(chan error, 1)
			go func() {
				done <- xactlock.New(pool).With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					p.rewrite.Store(&[2]string{"pg_catalog.pg_advisory_unlock(", "test_pause.pg_advisory_unlock("})
					return insert(ctx, tx)
				})
			}()
			until(t, "the server has committed", func() bool { return rows(t, db) == 1 })
			if err := xactlock.New(db).TryWithTx(t.Context(), hashkey.Name("k"), unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("another one between COMMIT and unlock: %v, want ErrNotAcquired", err)
			}
			if err := errors.Join(pause.release(), <-done); err != nil {
				t.Error(err)
			}
			noTrace(t, db, pool)
		})
	}
}

// Holders who came in that moment would fail with 40001 though no two of them
// overlapped. A holder with many locks more makes it long: they are freed one
// after the other.
func TestHoldersAtSerializableDoNotOverlap(t *testing.T) {
	t.Parallel()
	const goroutines, moreLocks = 6, 3000
	turns := stress(40)
	for path, o := range paths {
		if o.Isolation != sql.LevelSerializable {
			continue
		}
		t.Run(path, func(t *testing.T) {
			db := newDB(t)
			pools := []*sql.DB{db, openSame(t, db)}
			exec(t, db, `create table counter (n int)`)
			exec(t, db, `insert into counter values (0)`)
			err := parallel(goroutines, func(i int) error {
				l := xactlock.New(pools[i%2]).With(o)
				for range turns {
					if err := l.WithTx(t.Context(), hashkey.Name("counter"), lockMany(moreLocks)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if n := number(t, db, `select n from counter`); n != goroutines*turns {
				t.Errorf("n = %d after %d increments", n, goroutines*turns)
			}
			noTrace(t, db, pools...)
		})
	}
}

// lockMany is an increment that takes n locks which nobody fights over.
func lockMany(n int) xactlock.Func {
	return func(ctx context.Context, tx *sql.Tx) error {
		if err := increment(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `select count(pg_advisory_xact_lock_shared(n)) from generate_series(1, $1::int) n`, n)
		return err
	}
}

// A COMMIT that the server refuses leaves no lock on the session.
func TestRefusedCommitAtSerializable(t *testing.T) {
	t.Parallel()
	for path, o := range paths {
		if o.Isolation != sql.LevelSerializable {
			continue
		}
		t.Run(path, func(t *testing.T) {
			db := newDB(t)
			exec(t, db, `create table once (n int unique deferrable initially deferred)`)
			keys := []hashkey.Key{hashkey.Name("k"), hashkey.Pair(1, 2)}
			for range 3 {
				err := xactlock.New(db).With(o).WithTxAll(t.Context(), keys, func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, `insert into once values (1), (1)`)
					return err
				})
				if sqlState(err) != "23505" {
					t.Errorf("got %v, want SQLSTATE 23505", err)
				}
				if n := heldLocks(t, db); n != 0 {
					t.Errorf("%d locks are held after a refused commit", n)
				}
				if err := xactlock.New(db).With(o).WithTxAll(t.Context(), keys, nothing); err != nil {
					t.Errorf("the next call: %v", err)
				}
				if n := heldLocks(t, db); n != 0 {
					t.Errorf("%d locks are held after the next call", n)
				}
			}
		})
	}
}
