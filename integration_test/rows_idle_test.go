package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
		throughTunnel(func(c net.Conn) net.Conn { return noDeadlines{c} })(config)
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
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, source)
		wantError(t, err, context.Canceled)
		keepsLock(t, s.watcher)
		return nil
	})
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
		<-v.asked
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
