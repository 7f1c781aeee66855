package integration_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// All that database/sql can do works on the transaction that fn gets.
func TestTransactionIsWhole(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			stmt, err := tx.PrepareContext(ctx, `insert into t values ($1)`)
			if err != nil {
				return fmt.Errorf("prepare: %w", err)
			}
			for n := range 3 {
				if _, err := stmt.ExecContext(ctx, n); err != nil {
					return fmt.Errorf("insert: %w", err)
				}
			}
			numbers, err := tx.PrepareContext(ctx, `select n from t order by n`)
			if err != nil {
				return fmt.Errorf("prepare: %w", err)
			}
			rows, err := numbers.QueryContext(ctx)
			if err != nil {
				return fmt.Errorf("query: %w", err)
			}
			var got []int
			for rows.Next() {
				var n int
				if err := rows.Scan(&n); err != nil {
					return err
				}
				got = append(got, n)
			}
			if len(got) != 3 || got[2] != 2 {
				t.Errorf("read %v, want [0 1 2]", got)
			}
			types, err := tx.QueryContext(ctx, `select 1::numeric(10, 2) as price, array['a'] as tags`)
			if err != nil {
				return err
			}
			columns, err := types.ColumnTypes()
			if err != nil {
				return err
			}
			if precision, scale, ok := columns[0].DecimalSize(); !ok || precision != 10 || scale != 2 {
				t.Errorf("price is numeric(%d, %d), %t", precision, scale, ok)
			}
			return errors.Join(rows.Err(), rows.Close()) // and types is left open
		})
		if err != nil {
			t.Error(err)
		}
		if n := rows(t, db); n != 3 {
			t.Errorf("%d rows, want 3", n)
		}
	})
}

// A transaction that fn keeps is of no use to it afterwards, whatever it is
// used for.
func TestTransactionDoesNotOutliveTheCall(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		for i := range stress(100) {
			var kept *sql.Tx
			if err := l.WithTx(t.Context(), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error { kept = tx; return nil }); err != nil {
				t.Fatal(err)
			}
			uses := map[string]func() error{
				"Exec":     func() error { _, err := kept.Exec(`insert into t values ($1)`, 1); return err },
				"Query":    func() error { return kept.QueryRow(`insert into t values (1) returning n`).Scan(new(int)) },
				"Prepare":  func() error { _, err := kept.Prepare(`insert into t values (1)`); return err },
				"Commit":   kept.Commit,
				"Rollback": kept.Rollback,
			}
			for _, use := range [][]string{{"Exec", "Query", "Prepare", "Rollback", "Commit"}, {"Commit", "Exec"}}[i%2] {
				if err := uses[use](); !errors.Is(err, sql.ErrTxDone) {
					t.Errorf("call %d, %s: got %v, want sql.ErrTxDone", i, use, err)
				}
			}
		}
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows, want 0", n)
		}
	})
}

// A statement that fn has left running in another goroutine is over before the
// transaction is, and nothing of that goroutine reaches a later one.
func TestTransactionIsUsedWhileItEnds(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		var users sync.WaitGroup
		for i := range stress(200) {
			started := make(chan struct{})
			_ = l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				users.Go(func() {
					close(started)
					for {
						if _, err := tx.Exec(`select $1::int`, i); err != nil {
							return
						}
					}
				})
				<-started
				return nil
			}) // an error where a statement was cut off by the end
			var n int
			err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				return tx.QueryRowContext(ctx, `select $1::int`, -i).Scan(&n)
			})
			if err != nil || n != -i {
				t.Fatalf("the next transaction read %d, %v, want %d", n, err, -i)
			}
		}
		users.Wait()
	})
}

// What fn leaves open is closed before the connection is anybody else's, also
// where a wrapper of the driver hides what that is.
func TestTransactionLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(driver.Conn) driver.Conn{
		"pgx":     func(conn driver.Conn) driver.Conn { return conn },
		"wrapper": func(conn driver.Conn) driver.Conn { return &instrumented{conn.(*stdlib.Conn)} },
	} {
		t.Run(name, func(t *testing.T) {
			dsn := newDatabase(t)
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(wrapper{stdlib.GetConnector(*config), wrap})
			t.Cleanup(func() { _ = db.Close() })
			db.SetMaxOpenConns(1)
			l := xactlock.New(db)
			var left []*sql.Rows
			for i := range stress(100) {
				err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					const open, count = `select 'left open'`, `select count(*) from pg_prepared_statements where statement = $1`
					if n := number(t, tx, count, open); n != 0 {
						t.Errorf("call %d finds %d statements of the one before", i, n)
					}
					if i%2 == 0 {
						_, err := tx.PrepareContext(ctx, open)
						return err
					}
					rows, err := tx.QueryContext(ctx, `select generate_series(1, 1000)`)
					left = append(left, rows)
					return err
				})
				if err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			for _, rows := range left {
				if rows.Next() {
					t.Error("there are rows after the end of their transaction")
				}
			}
		})
	}
}

// instrumented is a wrapper of pgx's connections that keeps their rows to
// itself.
type instrumented struct{ *stdlib.Conn }

func (c *instrumented) Raw() driver.Conn { return c.Conn }

func (c *instrumented) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.Conn.QueryContext(ctx, query, args)
	return struct{ driver.Rows }{rows}, err
}

// After many calls at once, a call that is alone has the only transaction again.
func TestTransactionsAfterACrowd(t *testing.T) {
	db := newDB(t)
	l := xactlock.New(db)
	err := parallel(8, func(i int) error {
		for range 100 {
			if err := l.WithTx(t.Context(), hashkey.Int64(int64(i)), nothing); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fewest := math.MaxInt
	for range 100 {
		err := l.WithTx(t.Context(), hashkey.Int64(0), func(context.Context, *sql.Tx) error {
			fewest = min(fewest, goroutinesIn("database/sql.(*Tx).awaitDone"))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if fewest > 1 {
		t.Errorf("%d transactions at least, want 1", fewest)
	}
}

// goroutinesIn returns how many goroutines there are in function.
func goroutinesIn(function string) int {
	stacks := make([]byte, 1<<22)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte("\n"+function+"("))
}

// tx.Stmt takes statements of the pool on the plain path; on the other it says
// loudly that it does not.
func TestStmt(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		stmt, err := db.Prepare(`insert into t values ($1)`)
		if err != nil {
			t.Fatal(err)
		}
		defer stmt.Close()
		err = l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.StmtContext(ctx, stmt).ExecContext(ctx, 1)
			return err
		})
		if isPlain(t) != (err == nil) {
			t.Errorf("got %v", err)
		}
	})
}
