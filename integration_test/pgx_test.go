package integration_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// pgxStage is a pool of one connection on a database with an empty table t (n int),
// and another pool.
type pgxStage struct {
	pool    *pgxpool.Pool
	l       *pgxlock.Locker
	watcher *sql.DB
	meter   *meter
	tracer  *traced
}

func newPgxStage(t *testing.T, options ...func(*pgxpool.Config)) *pgxStage {
	t.Helper()
	s := &pgxStage{watcher: newDB(t), meter: new(meter), tracer: new(traced)}
	exec(t, s.watcher, `create table t (n int)`)
	config, err := pgx.ParseConfig(dsnOf(t, s.watcher))
	if err != nil {
		t.Fatal(err)
	}
	s.meter.on(config)
	config.Tracer = s.tracer
	s.pool = openPool(t, config, append(options, func(c *pgxpool.Config) { c.MaxConns = 1 })...)
	s.l = pgxlock.New(s.pool)
	return s
}

// keepsItsConnection checks that f leaves no lock, and the pool's one connection
// as it was.
func (s *pgxStage) keepsItsConnection(t *testing.T, f func()) {
	t.Helper()
	session := func() (pid int) {
		if err := s.pool.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	before := session()
	f()
	if n := s.pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are in use", n)
	}
	if now := session(); now != before {
		t.Errorf("session %d became %d", before, now)
	}
	noTrace(t, s.watcher)
}

// losesItsConnection calls f, which may cost the pool its connection.
func (s *pgxStage) losesItsConnection(t *testing.T, f func()) {
	t.Helper()
	f()
	until(t, "no connection is in use", func() bool { return s.pool.Stat().AcquiredConns() == 0 })
	noTrace(t, s.watcher)
}

// traced is a tracer of pgx's that writes down what it is told.
type traced struct {
	mu   sync.Mutex
	told []string // guarded by mu
}

type spanKey struct{}

func (tr *traced) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, spanKey{}, fmt.Sprintf("%v> %s", ctx.Value(spanKey{}), d.SQL))
}

func (tr *traced) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.told = append(tr.told, fmt.Sprintf("%v: %s %s", ctx.Value(spanKey{}), d.CommandTag, sqlState(d.Err)))
}

// during returns what the tracer is told while f runs.
func (tr *traced) during(f func()) []string {
	tr.mu.Lock()
	tr.told = nil
	tr.mu.Unlock()
	f()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.told
}

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
						until(t, "the statement runs", func() bool {
							return number(t, s.watcher, `select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`) == 1
						})
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

// A tracer of pgx's sees fn's statements, and the messages that open and end the
// transaction, each under the ctx that it was sent with.
func TestPgxTracer(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	ctx := context.WithValue(t.Context(), spanKey{}, "call")
	const open = "begin isolation level read committed;select pg_catalog.pg_try_advisory_xact_lock('7'::bigint);savepoint pgadvisory"
	short := func(told []string) (all []string) {
		for _, line := range told {
			line = strings.TrimPrefix(line, "call> ")
			line = strings.Join(strings.Fields(strings.ReplaceAll(line, "; ", ";")), " ")
			all = append(all, line)
		}
		return all
	}
	seven := hashkey.Int64(7)
	if err := s.l.WithTx(ctx, seven, func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Fatal(err) // and the connection is there
	}
	holder := hold(t, xactlock.New(s.watcher), hashkey.Name("taken"))
	for name, test := range map[string]struct {
		call func() error
		want []string
	}{
		"commits": {func() error {
			return s.l.WithTx(ctx, seven, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(context.WithValue(ctx, spanKey{}, "fn"), `insert into t values (1)`)
				return err
			})
		}, []string{open + ": SAVEPOINT", "fn> insert into t values (1): INSERT 0 1", "release savepoint pgadvisory;commit: COMMIT"}},
		"rolls back": {func() error {
			err := s.l.WithTx(ctx, seven, func(context.Context, pgx.Tx) error { return errExpected })
			return expect(errExpected, err)
		}, []string{open + ": SAVEPOINT", "rollback: ROLLBACK"}},
		"is refused": {func() error {
			err := s.l.TryWithTx(ctx, hashkey.Name("taken"), func(context.Context, pgx.Tx) error { return nil })
			return expect(pgxlock.ErrNotAcquired, err)
		}, nil},
		"Exec": {func() error {
			_, err := s.l.Exec(ctx, seven, `insert into t values ($1)`, 1)
			return err
		}, []string{"insert into t values ($1): INSERT 0 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			told := s.tracer.during(func() { err = test.call() })
			if err != nil {
				t.Error(err)
			}
			if test.want == nil {
				if len(told) != 2 || !strings.HasSuffix(told[1], "rollback: ROLLBACK ") {
					t.Errorf("told %q, want a question and a rollback", told)
				}
				return
			}
			if diff := cmp.Diff(test.want, short(told)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if err := holder.release(); err != nil {
		t.Error(err)
	}
}

// An uncontended call is two messages, whatever the options, and Exec one.
func TestPgxMessages(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	nothing := func(context.Context, pgx.Tx) error { return nil }
	cancellable, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, o := range everyOption() {
		l := s.l.With(o)
		for name, call := range map[string]func(context.Context) error{
			"WithTx":    func(ctx context.Context) error { return l.WithTx(ctx, key, nothing) },
			"TryWithTx": func(ctx context.Context) error { return l.TryWithTx(ctx, key, nothing) },
			"WithTxAll": func(ctx context.Context) error { return l.WithTxAll(ctx, someKeys, nothing) },
			"WithSlot":  func(ctx context.Context) error { return l.WithSlot(ctx, key, 2, nothing) },
			"fails": func(ctx context.Context) error {
				return expect(errExpected, l.WithTx(ctx, key, func(context.Context, pgx.Tx) error { return errExpected }))
			},
		} {
			if err := call(cancellable); err != nil { // and the statements are prepared
				t.Fatalf("%s %+v: %v", name, o, err)
			}
			if n := s.meter.during(t, func() error { return call(cancellable) }); n != 2 {
				t.Errorf("%s %+v: %d messages, want 2", name, o, n)
			}
		}
	}
	one := func() error { _, err := s.l.Exec(cancellable, key, `insert into t values ($1)`, 1); return err }
	if err := one(); err != nil {
		t.Fatal(err)
	}
	if n := s.meter.during(t, one); n != 1 {
		t.Errorf("Exec: %d messages, want 1", n)
	}
	if n := s.meter.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A call allocates little more than a transaction by hand.
func TestPgxAllocations(t *testing.T) {
	s := newPgxStage(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = nil })
	cancellable := t.Context()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable} {
		statement := func(tx pgx.Tx) error { _, err := tx.Exec(ctx, `select 1`); return err }
		byHand := testing.AllocsPerRun(500, func() {
			if err := pgx.BeginFunc(ctx, s.pool, statement); err != nil {
				t.Fatal(err)
			}
		})
		withTx := testing.AllocsPerRun(500, func() {
			err := s.l.WithTx(ctx, key, func(_ context.Context, tx pgx.Tx) error { return statement(tx) })
			if err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %.0f allocations by hand, %.0f with WithTx", name, byHand, withTx)
		if more := withTx - byHand; more > 15 {
			t.Errorf("%s: %.0f allocations more than by hand, want at most 15", name, more)
		}
	}
}

// What the program has prepared on the connection survives the calls, and the
// pool's hooks are run.
func TestPgxHooks(t *testing.T) {
	t.Parallel()
	var released int
	s := newPgxStage(t, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Prepare(ctx, "mine", `select 'mine'`)
			return err
		}
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { released++; return true, nil }
	})
	s.keepsItsConnection(t, func() {
		_, err := s.l.Exec(t.Context(), key, `select $1::int / 0`, 1)
		if sqlState(err) != "22012" {
			t.Error(err)
		}
		for range 2 {
			err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx pgx.Tx) error {
				var mine string
				err := tx.QueryRow(ctx, "mine").Scan(&mine)
				if mine != "mine" {
					t.Errorf("read %q", mine)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
		if released != 4 { // with the one for the test's own query
			t.Errorf("%d connections were handed out, want 4", released)
		}
	})
}

// A deadline that ends while a connection is tried, or made, costs none: it is there
// for the next call.
func TestPgxShortDeadline(t *testing.T) {
	t.Parallel()
	var m meter
	watcher := newDB(t)
	config, err := pgx.ParseConfig(dsnOf(t, watcher))
	if err != nil {
		t.Fatal(err)
	}
	m.on(config)
	distant(200 * time.Millisecond)(config)
	pool := openPool(t, config, func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	})
	l := pgxlock.New(pool)
	nothing := func(context.Context, pgx.Tx) error { return nil }
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		notAcquired(t, l.WithTx(ctx, key, nothing), context.DeadlineExceeded)
		cancel()
		until(t, "the connection is idle", func() bool { return pool.Stat().IdleConns() == 1 })
	}
	if err := l.WithTx(t.Context(), key, nothing); err != nil {
		t.Error(err)
	}
	if n := m.dials.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// Half of the pool is what waiters may take of it.
func TestPgxHotKeyLeavesThePoolAlone(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	config, err := pgx.ParseConfig(dsnOf(t, watcher))
	if err != nil {
		t.Fatal(err)
	}
	pool := openPool(t, config, func(c *pgxpool.Config) { c.MaxConns = 4 })
	l := pgxlock.New(pool)
	keys := make([]hashkey.Key, 8)
	var releases []func() error
	for i := range keys {
		keys[i] = hashkey.Int64(int64(i))
		releases = append(releases, hold(t, xactlock.New(watcher), keys[i]).release)
	}
	done := make(chan error, len(keys))
	for _, key := range keys {
		go func() { done <- l.WithTx(t.Context(), key, func(context.Context, pgx.Tx) error { return nil }) }()
	}
	until(t, "two calls wait on the server", func() bool { return waitingLocks(t, watcher) == 2 })
	for range 20 {
		if _, err := pool.Exec(bounded(t), `select 1`); err != nil {
			t.Error(err)
		}
		if n := pool.Stat().AcquiredConns(); n > 3 {
			t.Errorf("%d of 4 connections are in use", n)
		}
	}
	for _, release := range slices.Backward(releases) {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	for range keys {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	noTrace(t, watcher)
}
