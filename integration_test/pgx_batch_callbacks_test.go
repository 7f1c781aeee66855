package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// callbacks is a batch whose callbacks write down what they see.
type callbacks struct {
	pgx.Batch
	results pgx.BatchResults
	log     []string
}

func (c *callbacks) note(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
}

// query queues a query whose callback reads what it can, and swallows the error, or
// returns it.
func (c *callbacks) query(sql string, swallow bool) {
	i := c.Len()
	c.Queue(sql).Query(func(rows pgx.Rows) error {
		n := 0
		for rows.Next() {
			n++
		}
		c.note("%d: %d rows, %s", i, n, sqlState(rows.Err()))
		if swallow {
			return nil
		}
		return rows.Err()
	})
}

// row queues a query whose callback reads one row, and has an error of its own if there
// is none.
func (c *callbacks) row(sql string, failed error) {
	i := c.Len()
	c.Queue(sql).QueryRow(func(row pgx.Row) error {
		var n int
		err := row.Scan(&n)
		c.note("%d: row %d, %s", i, n, sqlState(err))
		if err != nil {
			return failed
		}
		return nil
	})
}

func (c *callbacks) exec(sql string, failed error) {
	i := c.Len()
	c.Queue(sql).Exec(func(tag pgconn.CommandTag) error {
		c.note("%d: %s", i, tag)
		return failed
	})
}

// documented returns the log without the callbacks that pgx calls after an error. Its
// documentation says that there are none, and it depends on the mode.
func documented(log []string) (left []string) {
	failed := false
	for _, line := range log {
		if failed && strings.Contains(line, ": row ") || failed && strings.Contains(line, " rows, ") {
			continue
		}
		left = append(left, line)
		failed = failed || strings.Contains(line, "22012")
	}
	return left
}

var errOfCallback = errors.New("of the callback")

// closing queues a query whose callback closes the batch, and returns an error.
func (c *callbacks) closing(sql string) {
	i := c.Len()
	c.Queue(sql).Exec(func(pgconn.CommandTag) error {
		c.note("%d: closed, %s", i, sqlState(c.results.Close()))
		return errOfCallback
	})
}

// A batch's callbacks are called, and its errors returned, as pgx does by itself.
func TestPgxBatchCallbacks(t *testing.T) {
	t.Parallel()
	const ok, fails, late, wrong = `select 1`, `select 1 / (1 - count(*)::int) from generate_series(1, 1)`, `select 1 / (2 - n) from generate_series(1, 2) n`, `select from where`
	nothing := func(*callbacks) {}
	byHand := func(c *callbacks) {
		_, err := c.results.Exec()
		c.note("by hand: %s", sqlState(err))
	}
	rowsByHand := func(c *callbacks) {
		rows, err := c.results.Query()
		for rows.Next() {
		}
		rows.Close()
		c.note("by hand: %s %s", sqlState(err), sqlState(rows.Err()))
	}
	for name, test := range map[string]struct {
		queue func(c *callbacks)
		read  func(c *callbacks)
	}{
		"good":                {func(c *callbacks) { c.query(ok, false); c.row(ok, nil); c.exec(ok, nil); c.Queue(ok); c.row(ok, nil) }, nothing},
		"good, first by hand": {func(c *callbacks) { c.query(ok, false); c.row(ok, nil); c.exec(ok, nil) }, byHand},
		"rows by hand":        {func(c *callbacks) { c.query(ok, false); c.row(ok, nil); c.exec(ok, nil) }, rowsByHand},
		"fails by hand": {func(c *callbacks) {
			c.query(fails, false)
			c.query(ok, true)
			c.row(ok, errOfCallback)
			c.exec(ok, nil)
		}, byHand},
		"rows fail by hand": {func(c *callbacks) {
			c.query(fails, false)
			c.query(ok, true)
			c.row(ok, errOfCallback)
			c.exec(ok, nil)
		}, rowsByHand},
		"late rows fail by hand":           {func(c *callbacks) { c.query(late, false); c.query(ok, true); c.row(ok, errOfCallback); c.exec(ok, nil) }, rowsByHand},
		"no callback fails":                {func(c *callbacks) { c.Queue(fails); c.query(ok, true); c.row(ok, errOfCallback) }, nothing},
		"cannot be prepared":               {func(c *callbacks) { c.row(ok, errOfCallback); c.query(wrong, true); c.query(ok, true) }, nothing},
		"callback's error":                 {func(c *callbacks) { c.exec(ok, errOfCallback); c.query(fails, true); c.query(ok, true) }, nothing},
		"callback's error, rest good":      {func(c *callbacks) { c.exec(ok, errOfCallback); c.query(ok, true) }, nothing},
		"a callback closes":                {func(c *callbacks) { c.closing(ok); c.query(ok, true) }, nothing},
		"a callback closes after an error": {func(c *callbacks) { c.closing(ok); c.query(fails, false); c.query(ok, true) }, nothing},
		"error in the middle":              {func(c *callbacks) { c.exec(ok, nil); c.row(fails, errOfCallback); c.query(ok, true); c.query(ok, true) }, nothing},
		"late error in the middle":         {func(c *callbacks) { c.exec(ok, nil); c.query(late, true); c.query(ok, true); c.query(ok, true) }, nothing},
		"swallowed row": {func(c *callbacks) {
			c.row(fails, nil)
			c.query(ok, true)
			c.query(ok, true)
			c.row(ok, nil)
			c.Queue(ok)
		}, nothing},
	} {
		t.Run(name, func(t *testing.T) {
			inEachMode(t, func(t *testing.T, s *pgxStage, _ pgx.QueryExecMode) {
				run := func(tx pgx.Tx) []string {
					c := new(callbacks)
					test.queue(c)
					c.results = tx.SendBatch(t.Context(), &c.Batch)
					test.read(c)
					for range 2 {
						err := c.results.Close()
						c.note("closed: %s, of the callback %t, nil %t", sqlState(err), errors.Is(err, errOfCallback), err == nil)
					}
					return c.log
				}
				tx, err := s.pool.Begin(t.Context())
				wantNoError(t, err)
				want := run(tx)
				_ = tx.Rollback(t.Context())
				var got []string
				_ = s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
					got = run(tx)
					return nil
				})
				if diff := cmp.Diff(documented(want), got); diff != "" {
					t.Errorf("pgx's (-) and ours (+):\n%s", diff)
				}
			})
		})
	}
}

// A callback cannot have its transaction run a statement, and its batch goes on.
func TestPgxStatementInCallback(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, s *pgxStage, _ pgx.QueryExecMode) {
		for name, statement := range map[string]func(ctx context.Context, tx pgx.Tx) error{
			"Exec":      func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, `select 1`); return err },
			"Query":     func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Query(ctx, `select 1`); return err },
			"QueryRow":  func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, `select 2`).Scan(nil) },
			"Begin":     func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Begin(ctx); return err },
			"Prepare":   func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Prepare(ctx, "", `select 1`); return err },
			"SendBatch": func(ctx context.Context, tx pgx.Tx) error { return send(ctx, tx, `select 1`).Close() },
			"CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows(nil))
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				s.keepsItsConnection(t, func() {
					wantNoError(t, s.l.WithTx(bounded(t), key, func(ctx context.Context, tx pgx.Tx) error {
						var c callbacks
						c.Queue(`select 1`).QueryRow(func(row pgx.Row) error {
							if err := statement(ctx, tx); err == nil || !strings.Contains(err.Error(), "conn busy") {
								t.Errorf("got %v, want that it is busy", err)
							}
							return row.Scan(new(int))
						})
						c.row(`select 2`, errOfCallback)
						err := tx.SendBatch(ctx, &c.Batch).Close()
						if len(c.log) != 1 {
							t.Errorf("the next callback has seen %v", c.log)
						}
						return err
					}))
				})
			})
		}
	})
}
