package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Rule 1: a statement that fails does not free the lock, though it aborts the
// transaction, and PostgreSQL frees a transaction's locks at its abort. While
// fn handles the error, nobody else gets in.
func TestFailedStatementKeepsTheLock(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(context.Context, *sql.Tx) error{
		"exec":  func(ctx context.Context, tx *sql.Tx) error { _, err := tx.ExecContext(ctx, `select 1/0`); return err },
		"query": func(ctx context.Context, tx *sql.Tx) error { return tx.QueryRowContext(ctx, `select 1/0`).Err() },
		"no such": func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.PrepareContext(ctx, `select nothing`)
			return err
		},
		"syntax": func(ctx context.Context, tx *sql.Tx) error { _, err := tx.ExecContext(ctx, `sleect`); return err },
		"parameters": func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `select 1 / $1::int`, 0)
			return err
		},
		"two in a row": func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `select 1/0`)
			_, second := tx.ExecContext(ctx, `select 1`)
			return errors.Join(err, second)
		},
		"to a savepoint and on": func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `savepoint mine; select 1/0`)
			_, second := tx.ExecContext(ctx, `rollback to savepoint mine; release savepoint mine; select 1/0`)
			return errors.Join(err, second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				other := xactlock.New(openSame(t, db)).With(paths[pathOf(t)])
				for _, swallow := range []bool{false, true} {
					var failure error
					keys := []hashkey.Key{hashkey.Name("k"), hashkey.Pair(1, 2)}
					err := l.WithTxAll(t.Context(), keys, func(ctx context.Context, tx *sql.Tx) error {
						pid := number(t, tx, `select pg_backend_pid()`)
						if failure = fail(ctx, tx); failure == nil {
							t.Error("the statement has not failed")
						}
						if n := number(t, db, `select count(*) from pg_locks where granted and pid = $1 and`+inThisDatabase, pid); n != 2 {
							t.Errorf("%d locks are held after a failed statement, want 2", n)
						}
						for _, key := range keys {
							if err := other.TryWithTx(t.Context(), key, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
								t.Errorf("another one at the same time: %v, want ErrNotAcquired", err)
							}
						}
						if swallow {
							return nil
						}
						return failure
					})
					if swallow && !errors.Is(err, pgx.ErrTxCommitRollback) || !swallow && err != failure {
						t.Errorf("got %v; fn swallows its error %t", err, swallow)
					}
					if err := other.TryWithTx(t.Context(), keys[0], nothing); err != nil {
						t.Errorf("another one afterwards: %v", err)
					}
				}
			})
		})
	}
}
