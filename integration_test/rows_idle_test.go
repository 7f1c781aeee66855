package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// manyRows are more than the sockets take at once.
const manyRows = `select repeat('x', 8000) from generate_series(1, 10000)`

// pastTheCut is longer than a statement whose ctx has ended goes on.
const pastTheCut = 3 * time.Second

// Rule 3: the lock is held until fn returns, also where fn has rows open when their
// ctx ends, and is slow to go on with them.
func TestRowsOpenWhenCtxEnds(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]bool{"pgx": false, "pgx, a ctx of the query's own": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPgxStage(t)
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			_ = s.l.WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error { // fails where ctx has ended
				queryCtx, end := context.WithCancel(ctx)
				defer end()
				rows, err := tx.Query(queryCtx, manyRows)
				wantNoError(t, err)
				defer rows.Close()
				rows.Next()
				if own {
					end()
				} else {
					cancel()
				}
				passes(t, s.watcher, pastTheCut)
				for rows.Next() {
				}
				keepsLock(t, s.watcher)
				return nil
			})
		})
	}
	t.Run("database/sql, RawBytes", func(t *testing.T) { // which database/sql does not close rows under
		t.Parallel()
		db := newDB(t)
		ctx, cancel := context.WithCancel(bounded(t))
		defer cancel()
		_ = xactlock.New(db).WithTx(ctx, key, func(ctx context.Context, tx *sql.Tx) error {
			rows, err := tx.QueryContext(ctx, manyRows)
			wantNoError(t, err)
			defer rows.Close()
			var raw sql.RawBytes
			rows.Next()
			wantNoError(t, rows.Scan(&raw))
			cancel()
			passes(t, db, pastTheCut)
			for rows.Next() {
			}
			keepsLock(t, db)
			return nil
		})
	})
	t.Run("on a connection without deadlines", func(t *testing.T) {
		t.Parallel()
		dsn := newDatabase(t)
		watcher := openDB(t, dsn)
		config, err := pgx.ParseConfig(dsn)
		wantNoError(t, err)
		wrapping(func(c net.Conn) net.Conn { return noDeadlines{c} })(config)
		ctx, cancel := context.WithCancel(bounded(t))
		defer cancel()
		_ = pgxlock.New(openPool(t, config)).WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `select generate_series(1, 3)`)
			wantNoError(t, err)
			defer rows.Close()
			rows.Next()
			cancel()
			passes(t, watcher, pastTheCut)
			keepsLock(t, watcher)
			return nil
		})
	})
}

// The same goes for a batch of which fn has read a part.
func TestBatchOpenWhenCtxEnds(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(t *testing.T, results pgx.BatchResults){
		"a row": func(t *testing.T, results pgx.BatchResults) {
			wantNoError(t, results.QueryRow().Scan(new(int)))
		},
		"rows that are closed": func(t *testing.T, results pgx.BatchResults) {
			rows, err := results.Query()
			wantNoError(t, err)
			rows.Next()
			rows.Close()
		},
		"rows": func(t *testing.T, results pgx.BatchResults) {
			rows, err := results.Query()
			wantNoError(t, err)
			rows.Next()
		},
		"a callback's panic": func(t *testing.T, results pgx.BatchResults) {
			defer func() { _ = recover() }()
			_ = results.Close()
			t.Error("the callback does not panic")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPgxStage(t)
			_ = s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error { // fails where ctx has ended
				batchCtx, end := context.WithCancel(ctx)
				defer end()
				var b pgx.Batch
				first := b.Queue(`select 1`)
				if name == "a callback's panic" {
					first.QueryRow(func(pgx.Row) error { panic("in a callback") })
				}
				b.Queue(manyRows)
				results := tx.SendBatch(batchCtx, &b)
				read(t, results)
				end()
				passes(t, s.watcher, pastTheCut)
				_ = results.Close() // fails where the server has not sent it all before the end of ctx
				keepsLock(t, s.watcher)
				return nil
			})
		})
	}
}

// A callback of a batch may be slow as well, and what it returns comes out of Close.
func TestBatchCallbackIsSlowWhenCtxEnds(t *testing.T) {
	t.Parallel()
	failed := errors.New("the callback failed")
	for name, queue := range map[string]func(q *pgx.QueuedQuery, slow func() error){
		"Query": func(q *pgx.QueuedQuery, slow func() error) {
			q.Query(func(rows pgx.Rows) error {
				rows.Next()
				return slow()
			})
		},
		"QueryRow": func(q *pgx.QueuedQuery, slow func() error) {
			q.QueryRow(func(pgx.Row) error { return slow() })
		},
		"Exec": func(q *pgx.QueuedQuery, slow func() error) {
			q.Exec(func(pgconn.CommandTag) error { return slow() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPgxStage(t)
			_ = s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error { // fails where ctx has ended
				batchCtx, end := context.WithCancel(ctx)
				defer end()
				var b pgx.Batch
				b.Queue(`select 1`)
				queue(b.Queue(`select generate_series(1, 2)`), func() error {
					end()
					passes(t, s.watcher, pastTheCut)
					return failed
				})
				b.Queue(manyRows).Exec(func(pgconn.CommandTag) error {
					t.Error("another callback is called")
					return nil
				})
				results := tx.SendBatch(batchCtx, &b)
				for range 2 {
					if err := results.Close(); err != failed {
						t.Errorf("Close: %v", err)
					}
				}
				keepsLock(t, s.watcher)
				return nil
			})
		})
	}
}

// keepsLock checks that a lock is held, and still a moment later: the server frees it
// when it next looks at a socket that is closed.
func keepsLock(t *testing.T, db *sql.DB) {
	t.Helper()
	passes(t, db, time.Second/2)
	if n := heldLocks(t, db); n != 1 {
		t.Errorf("%d locks are held inside fn, want 1", n)
	}
}

// slowSource is rows for CopyFrom, the second of which is slow.
type slowSource struct {
	n    int
	slow func()
}

func (s *slowSource) Next() bool             { s.n++; return s.n <= 3 }
func (s *slowSource) Values() ([]any, error) { s.slow(); return []any{s.n}, nil }
func (s *slowSource) Err() error             { return nil }

// A source of CopyFrom may be slow as well.
func TestCopySourceIsSlowWhenCtxEnds(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	_ = s.l.WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error {
		source := &slowSource{}
		source.slow = func() {
			if source.n == 2 {
				cancel()
				passes(t, s.watcher, pastTheCut)
			}
		}
		_, _ = tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, source) // succeeds where the server has it after the end of ctx
		keepsLock(t, s.watcher)
		return nil
	})
}

// slowScanner is a destination of Scan that is slow.
type slowScanner struct{ slow func() }

func (s slowScanner) Scan(any) error         { s.slow(); return nil }
func (s slowScanner) ScanRow(pgx.Rows) error { s.slow(); return nil }

// So may be what a row is scanned into: a sql.Scanner, or pgx's RowScanner.
func TestScannerIsSlowWhenCtxEnds(t *testing.T) {
	t.Parallel()
	for name, scan := range map[string]func(ctx context.Context, tx pgx.Tx, slow slowScanner) error{
		"sql.Scanner": func(ctx context.Context, tx pgx.Tx, slow slowScanner) error {
			return tx.QueryRow(ctx, manyRows).Scan(struct{ sql.Scanner }{slow})
		},
		"RowScanner": func(ctx context.Context, tx pgx.Tx, slow slowScanner) error {
			return tx.QueryRow(ctx, manyRows).Scan(struct{ pgx.RowScanner }{slow})
		},
		"sql.Scanner in a batch": func(ctx context.Context, tx pgx.Tx, slow slowScanner) error {
			results := send(ctx, tx, manyRows)
			defer results.Close()
			return results.QueryRow().Scan(struct{ sql.Scanner }{slow})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPgxStage(t)
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			_ = s.l.WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error { // fails where ctx has ended
				_ = scan(ctx, tx, slowScanner{func() {
					cancel()
					passes(t, s.watcher, pastTheCut)
				}})
				keepsLock(t, s.watcher)
				return nil
			})
		})
	}
}

// slowValue is a parameter whose value is being computed until release is closed.
type slowValue struct{ asked, release chan struct{} }

func (v slowValue) Value() (driver.Value, error) {
	close(v.asked)
	<-v.release
	return "x", nil
}

// Rows that are read while another statement is begun come to their end, or have an
// error: they do not end early.
func TestRowsBesideAStatement(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	_ = s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `select generate_series(1, 3)`)
		wantNoError(t, err)
		v := slowValue{make(chan struct{}), make(chan struct{})}
		over := make(chan struct{})
		go func() {
			defer close(over)
			_, _ = tx.Exec(ctx, `select $1::text`, pgx.QueryExecModeExec, v) // conn busy
		}()
		received(t, "the parameter is asked for its value", v.asked)
		if all, err := pgx.CollectRows(rows, pgx.RowTo[int]); err == nil && len(all) != 3 {
			t.Errorf("%d of 3 rows, and no error", len(all))
		}
		close(v.release)
		<-over
		if rows.Close(); rows.Err() == nil {
			t.Error("a row was missed, and closed rows have no error")
		}
		return nil
	})
}

// mute is a socket that nothing comes from any more once it is silent.
type mute struct {
	net.Conn
	nothing net.Conn
	silent  *atomic.Bool
}

func (m mute) Read(b []byte) (int, error) {
	if m.silent.Load() {
		return m.nothing.Read(b)
	}
	return m.Conn.Read(b)
}

func (m mute) SetDeadline(d time.Time) error {
	return errors.Join(m.Conn.SetDeadline(d), m.nothing.SetDeadline(d))
}

func (m mute) SetReadDeadline(d time.Time) error {
	return errors.Join(m.Conn.SetReadDeadline(d), m.nothing.SetReadDeadline(d))
}

// Rows of a server that has fallen silent are not read for ever once their ctx has
// ended, and those of a batch neither.
func TestRowsOfASilentServer(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]func(ctx context.Context, tx pgx.Tx) (pgx.Rows, error){
		"rows": func(ctx context.Context, tx pgx.Tx) (pgx.Rows, error) { return tx.Query(ctx, manyRows) },
		"of a batch": func(ctx context.Context, tx pgx.Tx) (pgx.Rows, error) {
			var b pgx.Batch
			b.Queue(manyRows)
			return tx.SendBatch(ctx, &b).Query()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var silent atomic.Bool
			ends := make(chan net.Conn, 8)
			config, err := pgx.ParseConfig(newDatabase(t))
			wantNoError(t, err)
			wrapping(func(c net.Conn) net.Conn {
				nothing, end := net.Pipe()
				ends <- end
				return mute{c, nothing, &silent}
			})(config)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err = pgxlock.New(openPool(t, config)).WithTx(ctx, key, func(ctx context.Context, tx pgx.Tx) error {
				rows, err := query(ctx, tx)
				if err != nil {
					return err
				}
				silent.Store(rows.Next())
				for rows.Next() {
				}
				return rows.Err()
			})
			for len(ends) > 0 { // pgx waits for the server when the pool is closed
				(<-ends).Close()
			}
			wantError(t, err, context.DeadlineExceeded)
		})
	}
}
