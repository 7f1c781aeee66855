package integration_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// inEachMode calls f with a pool for each way of pgx to send a batch.
func inEachMode(t *testing.T, f func(t *testing.T, s *pgxStage, mode pgx.QueryExecMode)) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			f(t, newPgxStage(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }), mode)
		})
	}
}

// send sends a batch of one query.
func send(ctx context.Context, tx pgx.Tx, query string, args ...any) pgx.BatchResults {
	var b pgx.Batch
	b.Queue(query, args...)
	return tx.SendBatch(ctx, &b)
}

// rowsCloser is scanned from rows, and closes them.
type rowsCloser struct{}

func (rowsCloser) ScanRow(rows pgx.Rows) error { rows.Close(); return nil }

// When its ctx ends, a statement is cancelled, and no later one: also where pgx is done
// with the statement, and fn has yet to close what is left of it.
func TestPgxStatementAfterOneThatIsOver(t *testing.T) {
	t.Parallel()
	type statement func(t *testing.T, ctx context.Context, tx pgx.Tx) (closeLater func())
	inEachMode(t, func(t *testing.T, s *pgxStage, mode pgx.QueryExecMode) {
		statements := map[string]statement{
			"a batch that cannot be sent": func(t *testing.T, ctx context.Context, tx pgx.Tx) func() {
				results := send(ctx, tx, `select $1::text`, func() {})
				for range 2 {
					if _, err := results.Exec(); err == nil {
						t.Error("a batch that was not sent has no error")
					}
				}
				return func() { _ = results.Close() }
			},
			"a batch of nothing": func(_ *testing.T, ctx context.Context, tx pgx.Tx) func() {
				results := tx.SendBatch(ctx, new(pgx.Batch))
				return func() { wantNoError(t, results.Close()) }
			},
			"a batch beside rows": func(t *testing.T, ctx context.Context, tx pgx.Tx) func() {
				rows, err := tx.Query(context.WithoutCancel(ctx), `select 1`)
				wantNoError(t, err)
				results := send(ctx, tx, `select 1`)
				if _, err := results.Exec(); err == nil {
					t.Error("a batch is sent beside rows")
				}
				rows.Close()
				return func() { _ = results.Close() }
			},
			"a query whose rows a scan closes": func(t *testing.T, ctx context.Context, tx pgx.Tx) func() {
				rows, err := tx.Query(ctx, `select 1`)
				wantNoError(t, err)
				rows.Next()
				wantNoError(t, rows.Scan(rowsCloser{}))
				return rows.Close
			},
		}
		if mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol { // in others, Close has to come first
			statements["a batch that fails"] = func(t *testing.T, ctx context.Context, tx pgx.Tx) func() {
				results := send(ctx, tx, `select 1 / $1::int`, 0)
				if _, err := results.Exec(); sqlState(err) != "22012" {
					t.Errorf("got %v, want a division by zero", err)
				}
				return func() { _ = results.Close() }
			}
			statements["a batch that is read past its end"] = func(t *testing.T, ctx context.Context, tx pgx.Tx) func() {
				results := send(ctx, tx, `select 1`)
				_, err := results.Exec()
				wantNoError(t, err)
				if _, err := results.Query(); err == nil {
					t.Error("one query has two results")
				}
				return func() { wantNoError(t, results.Close()) }
			}
		}
		for name, statement := range statements {
			t.Run(name, func(t *testing.T) {
				s.keepsItsConnection(t, func() {
					wantNoError(t, s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
						nested, err := tx.Begin(ctx)
						wantNoError(t, err)
						ended, end := context.WithCancel(ctx)
						closeLater := statement(t, ended, tx)
						wantNoError(t, nested.Rollback(ctx))
						end()
						_, err = tx.Exec(ctx, `select pg_sleep(0.5)`)
						closeLater()
						return err
					}))
				})
			})
		}
	})
}

// Rows of a batch may be closed after the batch, and have an error if they were not read
// to their end.
func TestPgxRowsClosedAfterTheirBatch(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, s *pgxStage, _ pgx.QueryExecMode) {
		s.keepsItsConnection(t, func() {
			_, err := returned(t, func() error {
				return s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
					var b pgx.Batch
					b.Queue(`select generate_series(1, 10)`)
					b.Queue(`insert into t values (1)`)
					results := tx.SendBatch(ctx, &b)
					rows, err := results.Query()
					wantNoError(t, err)
					defer rows.Close()
					rows.Next()
					wantNoError(t, results.Close())
					if rows.Next() || rows.Err() == nil {
						t.Errorf("rows that were cut off have the error %v", rows.Err())
					}
					_, err = tx.Exec(ctx, `insert into t values (2)`)
					return err
				})
			})
			wantNoError(t, err)
		})
		if n := rows(t, s.watcher); n != 2 {
			t.Errorf("%d rows, want 2", n)
		}
	})
}

// A goroutine that fn has left may use what its query returned while the call ends, and
// while the next one uses the connection. There is nothing to see but with -race.
func TestPgxQueryWhileTheCallEnds(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, s *pgxStage, _ pgx.QueryExecMode) {
		for name, query := range map[string]func(ctx context.Context, tx pgx.Tx, v slowValue) (pgx.Rows, error){
			"query": func(ctx context.Context, tx pgx.Tx, v slowValue) (pgx.Rows, error) {
				return tx.Query(ctx, `select $1::text`, v)
			},
			"batch": func(ctx context.Context, tx pgx.Tx, v slowValue) (pgx.Rows, error) {
				return send(ctx, tx, `select $1::text`, v).Query()
			},
		} {
			for range 20 {
				over := make(chan struct{})
				wantNoError(t, s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
					v := slowValue{make(chan struct{}), make(chan struct{})}
					go func() {
						defer close(over)
						rows, err := query(ctx, tx, v)
						if err != nil {
							return
						}
						if tag := rows.CommandTag(); tag.String() != "" && tag.String() != "SELECT 1" {
							t.Errorf("%s: the tag is %q", name, tag)
						}
						if d := rows.FieldDescriptions(); len(d) > 0 && d[0].Name != "text" {
							t.Errorf("%s: the column is %q", name, d[0].Name)
						}
					}()
					received(t, "the parameter is asked for its value", v.asked)
					close(v.release)
					return nil
				}))
				_, err := s.pool.Exec(t.Context(), `select 1 as another`)
				wantNoError(t, err)
				<-over
			}
		}
	})
}

// Rows know their columns, and their tag once they are closed, also after the next
// statement.
func TestPgxRowsKeepTheirDescription(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, s *pgxStage, _ pgx.QueryExecMode) {
		wantNoError(t, s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
			queried, err := tx.Query(ctx, `select generate_series(1, 2) as first`)
			wantNoError(t, err)
			queried.Close()
			results := send(ctx, tx, `select 1 as second`)
			batched, err := results.Query()
			wantNoError(t, err)
			batched.Close()
			wantNoError(t, results.Close())
			_, err = tx.Exec(ctx, `select 3 as third`)
			for _, got := range []struct {
				rows         pgx.Rows
				column, want string
			}{{queried, "first", "SELECT 2"}, {batched, "second", "SELECT 1"}} {
				if d := got.rows.FieldDescriptions(); len(d) != 1 || d[0].Name != got.column {
					t.Errorf("the columns are %v, want %s", d, got.column)
				}
				if tag := got.rows.CommandTag().String(); tag != got.want {
					t.Errorf("the tag is %q, want %q", tag, got.want)
				}
			}
			return err
		}))
	})
}
