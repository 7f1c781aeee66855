package integration_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
)

// All that pgx can do works on the transaction that fn gets.
func TestPgxTransactionIsWhole(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	for name, test := range map[string]struct {
		fn   pgxlock.Func
		rows int
	}{
		"CopyFrom": {func(ctx context.Context, tx pgx.Tx) error {
			n, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}, {3}}))
			if n != 3 {
				t.Errorf("%d rows were copied", n)
			}
			return err
		}, 3},
		"SendBatch": {func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			var called int
			b.Queue(`insert into t values ($1)`, 1)
			b.Queue(`insert into t select generate_series(1, $1::int)`, 4)
			b.Queue(`select count(*) from t`)
			b.Queue(`select n from t`).Query(func(rows pgx.Rows) error {
				all, err := pgx.CollectRows(rows, pgx.RowTo[int])
				called = len(all)
				return err
			})
			results := tx.SendBatch(ctx, &b)
			if _, err := results.Exec(); err != nil {
				return err
			}
			tag, err := results.Exec()
			if err != nil || tag.RowsAffected() != 4 {
				t.Errorf("%s, %v", tag, err)
			}
			var n int
			if err := results.QueryRow().Scan(&n); err != nil || n != 5 {
				t.Errorf("%d rows, %v", n, err)
			}
			if results.Tx() != nil {
				t.Error("the batch has a transaction")
			}
			if err := results.Close(); err != nil || called != 5 {
				t.Errorf("the callback read %d rows, %v", called, err)
			}
			return results.Close()
		}, 5},
		"nested": {func(ctx context.Context, tx pgx.Tx) error {
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `insert into t values (1)`); err != nil {
					return err
				}
				failed := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, `insert into t values (1/0)`)
					return err
				})
				if sqlState(failed) != "22012" {
					t.Errorf("the inner transaction: %v", failed)
				}
				return nil
			})
			if err != nil {
				return err
			}
			undone := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `insert into t values (2)`)
				return errors.Join(err, errExpected)
			})
			wantError(t, undone, errExpected)
			inner, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if err := inner.Commit(ctx); err != nil {
				return err
			}
			_, execErr := inner.Exec(ctx, `select 1`)
			_, queryErr := inner.Query(ctx, `select 1`)
			_, beginErr := inner.Begin(ctx)
			for _, err := range []error{execErr, queryErr, beginErr, inner.Commit(ctx), inner.Rollback(ctx)} {
				wantError(t, err, pgx.ErrTxClosed)
			}
			left, err := tx.Begin(ctx) // and left as it is
			if err == nil {
				_, err = left.Exec(ctx, `insert into t values (3)`)
			}
			return err
		}, 2},
		"LargeObjects": {func(ctx context.Context, tx pgx.Tx) error {
			objects := tx.LargeObjects()
			id, err := objects.Create(ctx, 0)
			if err != nil {
				return err
			}
			object, err := objects.Open(ctx, id, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
			if err != nil {
				return err
			}
			content := bytes.Repeat([]byte("content"), 1000)
			if _, err := object.Write(content); err != nil {
				return err
			}
			if _, err := object.Seek(0, io.SeekStart); err != nil {
				return err
			}
			got, err := io.ReadAll(object)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			return errors.Join(object.Close(), objects.Unlink(ctx, id))
		}, 0},
		"Prepare": {func(ctx context.Context, tx pgx.Tx) error {
			d, err := tx.Prepare(ctx, "mine", `insert into t values ($1::int)`)
			if err != nil || len(d.ParamOIDs) != 1 {
				t.Errorf("prepared %v, %v", d, err)
				return err
			}
			_, err = tx.Exec(ctx, "mine", 1)
			return err
		}, 1},
		"Query": {func(ctx context.Context, tx pgx.Tx) error {
			type item struct {
				ID   int
				Name string
			}
			rows, err := tx.Query(ctx, `select n as id, 'n' || n as name from generate_series(1, 2) n`)
			if err != nil {
				return err
			}
			if got := rows.FieldDescriptions(); len(got) != 2 || rows.Conn() != tx.Conn() || rows.TypeMap() != tx.Conn().TypeMap() {
				t.Errorf("%d columns", len(got))
			}
			items, err := pgx.CollectRows(rows, pgx.RowToStructByName[item])
			if diff := cmp.Diff([]item{{1, "n1"}, {2, "n2"}}, items); diff != "" || err != nil {
				t.Errorf("%v, %s", err, diff)
			}
			if rows.CommandTag().String() != "SELECT 2" {
				t.Errorf("the tag is %s", rows.CommandTag())
			}
			if err := tx.QueryRow(ctx, `select 1 where false`).Scan(new(int)); !errors.Is(err, pgx.ErrNoRows) {
				t.Errorf("no row: %v", err)
			}
			var first int
			if err := tx.QueryRow(ctx, `select generate_series(1, 3)`).Scan(&first); err != nil || first != 1 {
				t.Errorf("the first row is %d, %v", first, err)
			}
			rows, err = tx.Query(ctx, `select 'text', null::int`)
			if err != nil {
				return err
			}
			rows.Next()
			values, err := rows.Values()
			if diff := cmp.Diff([]any{"text", nil}, values); diff != "" || err != nil {
				t.Errorf("%v, %s", err, diff)
			}
			if raw := rows.RawValues(); len(raw) != 2 || string(raw[0]) != "text" {
				t.Errorf("raw values are %q", raw)
			}
			if err := rows.Scan(new(int), nil); err == nil || rows.Err() == nil || rows.Next() {
				t.Errorf("a text scanned into an int: %v, %v", err, rows.Err())
			}
			_, err = tx.Exec(ctx, `select 1`) // the rows are closed
			return err
		}, 0},
		"Lock": {func(ctx context.Context, tx pgx.Tx) error {
			err := s.l.Lock(ctx, tx, hashkey.Name("second"))
			ok, tryErr := s.l.TryLock(ctx, tx, hashkey.Name("third"))
			if !ok || number(t, s.watcher, `select count(*) from pg_locks where granted and`+inThisDatabase) != 3 {
				t.Error("the locks are not held")
			}
			return errors.Join(err, tryErr)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			exec(t, s.watcher, `truncate t`)
			s.keepsItsConnection(t, func() {
				if err := s.l.WithTx(bounded(t), key, test.fn); err != nil {
					t.Error(err)
				}
			})
			if n := rows(t, s.watcher); n != test.rows {
				t.Errorf("%d rows, want %d", n, test.rows)
			}
		})
	}
}

// blockedSource is rows to copy of which the second comes when it is let go.
type blockedSource struct {
	begun, leave chan struct{}
	n            int
}

func (b *blockedSource) Next() bool {
	if b.n++; b.n == 2 {
		close(b.begun)
		<-b.leave
	}
	return b.n < 3
}
func (b *blockedSource) Values() ([]any, error) { return []any{b.n}, nil }
func (b *blockedSource) Err() error             { return nil }

// Every statement whose ctx ends is cancelled; the lock is held until fn returns,
// and the connection goes back whole.
func TestPgxStatementIsCancelled(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	exec(t, s.watcher, `create table slow (n int)`)
	exec(t, s.watcher, `create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(3600); return new; end'`)
	exec(t, s.watcher, `create trigger slow before insert on slow for each row execute function slow()`)
	for name, statement := range map[string]pgxlock.Func{
		"CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"slow"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}}))
			return err
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			b.Queue(`select 1`)
			b.Queue(`select pg_sleep(3600)`)
			return tx.SendBatch(ctx, &b).Close()
		},
		"batch row": func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			b.Queue(`select pg_sleep(3600)::text`)
			b.Queue(`select 1`)
			results := tx.SendBatch(ctx, &b)
			defer results.Close()
			return results.QueryRow().Scan(new(string))
		},
		"nested": func(ctx context.Context, tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `select pg_sleep(3600)`)
				return err
			})
		},
		"LargeObjects": func(ctx context.Context, tx pgx.Tx) error {
			objects := tx.LargeObjects()
			_, err := tx.Exec(ctx, `create function public.lo_unlink(oid) returns int language sql as 'select 1 from pg_sleep(3600)';
				set local search_path = public, pg_catalog`)
			if err != nil {
				return err
			}
			return objects.Unlink(ctx, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.keepsItsConnection(t, func() {
				ctx, cancel := context.WithCancel(bounded(t))
				defer cancel()
				err := s.l.WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error {
					go func() {
						untilOneSleeps(t, s.watcher)
						cancel()
					}()
					if err := statement(ctx, tx); !errors.Is(err, context.Canceled) {
						t.Errorf("the statement: %v, want context.Canceled", err)
					}
					if n := heldLocks(t, s.watcher); n != 1 {
						t.Errorf("%d locks are held inside fn, want 1", n)
					}
					return nil
				})
				wantError(t, err, context.Canceled)
			})
		})
	}
}

// COPY from the client is refused, in one message and in three.
func TestPgxExecOfCopy(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	for _, o := range []pgxlock.Options{{}, {MaxHold: time.Minute}} {
		s.keepsItsConnection(t, func() {
			_, err := s.l.With(o).Exec(bounded(t), hashkey.Name("k"), `/* a comment */ copy t from stdin`)
			if err == nil || !strings.Contains(err.Error(), "COPY FROM STDIN") {
				t.Errorf("MaxHold %v: got %v", o.MaxHold, err)
			}
		})
	}
}
