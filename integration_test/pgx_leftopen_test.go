package integration_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/pgxlock"
)

// What fn leaves open is closed when it returns, and no use after that reaches the
// connection.
func TestPgxLeftOpen(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
		t.Run(mode.String(), func(t *testing.T) { testLeftOpen(t, mode) })
	}
}

func testLeftOpen(t *testing.T, mode pgx.QueryExecMode) {
	s := newPgxStage(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
	s.keepsItsConnection(t, func() {
		var left struct {
			tx, nested pgx.Tx
			results    pgx.BatchResults
			rows       pgx.Rows
			object     *pgx.LargeObject
		}
		called := false
		err := s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) (err error) {
			left.tx = tx
			if left.nested, err = tx.Begin(ctx); err != nil {
				return err
			}
			objects := left.nested.LargeObjects()
			id, err := objects.Create(ctx, 0)
			if err != nil {
				return err
			}
			if left.object, err = objects.Open(ctx, id, pgx.LargeObjectModeWrite); err != nil {
				return err
			}
			var b pgx.Batch
			b.Queue(`select generate_series(1, 10000)`)
			b.Queue(`insert into t values (1)`).Exec(func(pgconn.CommandTag) error { called = true; return nil })
			left.results = tx.SendBatch(ctx, &b)
			left.rows, err = left.results.Query()
			if err == nil && !left.rows.Next() {
				t.Error("there is no first row")
			}
			if _, err := tx.Exec(ctx, `select 1`); err == nil {
				t.Error("a statement runs beside a batch")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if n := rows(t, s.watcher); n != 1 || called {
			t.Errorf("the second statement of the batch wrote %d rows, its callback was called %t", n, called)
		}
		ctx := t.Context()
		sent := s.meter.messages.Load()
		_, beginErr := left.tx.Begin(ctx)
		_, copyErr := left.tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}}))
		_, prepareErr := left.tx.Prepare(ctx, "late", `select 1`)
		_, writeErr := left.object.Write([]byte("late"))
		_, resultErr := left.results.Exec()
		var late pgx.Batch
		late.Queue(`select 1`)
		for name, err := range map[string]error{
			"Begin": beginErr, "CopyFrom": copyErr, "Prepare": prepareErr, "Write": writeErr, "a result": resultErr,
			"QueryRow":  left.tx.QueryRow(ctx, `select 1`).Scan(new(int)),
			"SendBatch": left.tx.SendBatch(ctx, &late).Close(),
			"Commit":    left.tx.Commit(ctx), "Rollback": left.tx.Rollback(ctx),
			"nested Commit": left.nested.Commit(ctx), "nested Rollback": left.nested.Rollback(ctx),
			"Scan": left.rows.Scan(new(int)),
		} {
			if err == nil {
				t.Errorf("%s has no error", name)
			}
		}
		if n := s.meter.messages.Load() - sent; n != 0 {
			t.Errorf("%d messages were sent after the call", n)
		}
		// The next user of the connection is not disturbed, and not seen.
		next, err := s.pool.Query(ctx, `select generate_series(1, 3)`)
		if err != nil {
			t.Fatal(err)
		}
		if left.rows.Next() || left.rows.Scan(new(int)) == nil || left.rows.RawValues() != nil || left.rows.FieldDescriptions() != nil {
			t.Error("the rows go on")
		}
		if left.rows.Err() == nil {
			t.Error("rows that are cut off say that they were read to their end")
		}
		left.rows.Close()
		_ = left.results.Close()
		_, _ = left.results.Exec()
		if all, err := pgx.CollectRows(next, pgx.RowTo[int]); len(all) != 3 || err != nil {
			t.Errorf("the next query read %v, %v", all, err)
		}
	})
}

// A panic inside a statement reaches the caller, and leaves neither a lock nor an
// interrupt nor a connection that is not as it was. One of a batch's parameters
// costs the connection, on which pgx has begun a message by then; so nothing is
// committed though fn recovers.
func TestPgxPanicInsideAStatement(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	for name, statement := range map[string]pgxlock.Func{
		"Exec": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select $1::text`, &counted{panics: true})
			return err
		},
		"Query": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Query(ctx, `select $1::text`, &counted{panics: true})
			return err
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			b.Queue(`select $1::text`, &counted{panics: true})
			return tx.SendBatch(ctx, &b).Close()
		},
		"callback": func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			b.Queue(`select generate_series(1, 1000)`).Query(func(pgx.Rows) error { panic("in Value") })
			b.Queue(`select 1`).QueryRow(func(pgx.Row) error { t.Error("another callback is called"); return nil })
			return tx.SendBatch(ctx, &b).Close()
		},
		"Scan": func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `select generate_series(1, 1000)::text`)
			if err == nil && rows.Next() {
				err = rows.Scan(panickingText{})
			}
			return err
		},
		"row": func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select generate_series(1, 1000)::text`).Scan(panickingText{})
		},
	} {
		for _, recovers := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/recovers %t", name, recovers), func(t *testing.T) {
				exec(t, s.watcher, `truncate t`)
				around, commits := s.keepsItsConnection, recovers
				if name == "SendBatch" {
					around, commits = s.losesItsConnection, false
				}
				around(t, func() {
					ctx, cancel := context.WithCancel(bounded(t))
					panicked, err := returned(t, func() error {
						return s.l.WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error {
							if recovers {
								defer func() { _ = recover() }()
							}
							if _, err := tx.Exec(ctx, `insert into t values (1)`); err != nil {
								return err
							}
							return statement(ctx, tx)
						})
					})
					cancel() // under the next statement of the connection, if an interrupt is still armed
					if recovers != (panicked == nil) || errors.Is(err, pgxlock.ErrCommitUnknown) || (err != nil) != (recovers && !commits) {
						t.Errorf("the panic is %v, the error %v", panicked, err)
					}
				})
				if n := rows(t, s.watcher); (n == 1) != commits {
					t.Errorf("%d rows", n)
				}
			})
		}
	}
}

// panickingText cannot be scanned into.
type panickingText struct{}

func (panickingText) Scan(any) error { panic("in Value") }

// nosyText uses what it is scanned from.
type nosyText struct {
	tx   pgx.Tx
	rows pgx.Rows
}

func (n nosyText) Scan(any) error {
	_, err := n.tx.Exec(context.Background(), `select 1`)
	if err == nil {
		err = errors.New("a statement runs inside Scan")
	} else {
		err = n.rows.Err()
	}
	n.rows.Close() // which is done later
	return err
}

// A statement of another goroutine, or of a callback, gets an error while one runs:
// it neither waits for ever nor disturbs it.
func TestPgxOneAtATime(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	s.keepsItsConnection(t, func() {
		err := s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
			source := &blockedSource{begun: make(chan struct{}), leave: make(chan struct{})}
			copied := make(chan error, 1)
			go func() {
				_, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, source)
				copied <- err
			}()
			<-source.begun
			if _, err := tx.Exec(ctx, `select 1`); err == nil {
				t.Error("a statement runs beside another")
			}
			close(source.leave)
			if err := <-copied; err != nil {
				t.Errorf("the statement that ran: %v", err)
			}
			rows, err := tx.Query(ctx, `select generate_series(1, 2)::text`)
			if err != nil {
				return err
			}
			for rows.Next() {
				if err := rows.Scan(nosyText{tx, rows}); err != nil {
					t.Errorf("Scan: %v", err)
				}
			}
			if err := rows.Err(); err != nil {
				t.Errorf("the rows: %v", err)
			}
			var b pgx.Batch
			b.Queue(`select 1`).QueryRow(func(pgx.Row) error {
				_, err := tx.Exec(ctx, `select 1`)
				return err
			})
			if err := tx.SendBatch(ctx, &b).Close(); err == nil {
				t.Error("a statement runs inside the callback of another")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if n := rows(t, s.watcher); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

// A statement that runs in another goroutine when fn returns is waited for.
func TestPgxStatementDoesNotOutliveTheCall(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	source := &blockedSource{begun: make(chan struct{}), leave: make(chan struct{})}
	returning := make(chan struct{})
	go func() {
		<-returning
		close(source.leave)
	}()
	s.keepsItsConnection(t, func() {
		err := s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
			go func() { _, _ = tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, source) }()
			<-source.begun
			close(returning)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if n := rows(t, s.watcher); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

// Batch.BeginTx, which would begin and end a transaction of its own, is refused
// as in a transaction of pgx's.
func TestPgxBatchThatBegins(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	s.keepsItsConnection(t, func() {
		err := s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			b.BeginTx(pgx.TxOptions{})
			b.Queue(`insert into t values (1)`)
			if err := tx.SendBatch(ctx, &b).Close(); err == nil {
				t.Error("the batch is sent")
			}
			_, err := tx.Exec(ctx, `insert into t values (1)`)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
