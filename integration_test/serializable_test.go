package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// At SERIALIZABLE, PostgreSQL frees a transaction's locks a moment before it
// takes the transaction for over; holders who come in that moment fail with
// 40001 though no two of them overlapped. A holder with many locks more makes
// the moment long: they are freed one after the other.
func TestHoldersAtSerializableDoNotOverlap(t *testing.T) {
	const goroutines, turns, moreLocks = 8, 40, 3000
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
				for turn := range turns {
					err := l.WithTx(t.Context(), hashkey.Name("counter"), func(ctx context.Context, tx *sql.Tx) error {
						if err := increment(ctx, tx); err != nil {
							return fmt.Errorf("turn %d: %w", turn, err)
						}
						_, err := tx.ExecContext(ctx, `select count(pg_advisory_xact_lock_shared(n)) from generate_series(1, $1::int) n`, moreLocks)
						return err
					})
					if err != nil {
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

// A COMMIT that the server refuses leaves no lock on the session.
func TestRefusedCommitAtSerializable(t *testing.T) {
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
