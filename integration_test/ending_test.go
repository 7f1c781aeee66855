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
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// paths are the two ways a call goes: on pgx's connection, and through
// database/sql alone.
var paths = map[string]xactlock.Options{
	"adopted":              {},
	"adopted serializable": {Isolation: sql.LevelSerializable},
	"plain":                {Plain: true},
	"plain serializable":   {Plain: true, Isolation: sql.LevelSerializable},
}

// onEachPath runs a test on each path, with a pool of its own on a database
// with an empty table t (n int).
func onEachPath(t *testing.T, test func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker)) {
	for name, o := range paths {
		t.Run(name, func(t *testing.T) {
			m := new(meter)
			db := openMetered(t, newDatabase(t), m)
			exec(t, db, `create table t (n int)`)
			test(t, db, m, xactlock.New(db).With(o))
			noTrace(t, db)
		})
	}
}

// insert is an fn that writes one row.
func insert(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `insert into t values (1)`)
	return err
}

func rows(tb testing.TB, db *sql.DB) int {
	tb.Helper()
	return number(tb, db, `select count(*) from t`)
}

// Rule 1: fn returning nil commits.
func TestReturnCommits(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		if err := l.WithTx(t.Context(), hashkey.Name("k"), insert); err != nil {
			t.Fatal(err)
		}
		if n := rows(t, db); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// Rule 1: fn runs only while the lock is held, in the transaction that holds
// it.
func TestFnRunsUnderTheLock(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			if n := number(t, tx, `select count(*) from pg_locks where pid = pg_backend_pid() and granted and`+inThisDatabase); n != 1 {
				t.Errorf("the transaction holds %d locks, want 1", n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Rule 1: an error rolls back, and reaches the caller as it is.
func TestErrorRollsBack(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		dials := m.dials.Load()
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			return errors.Join(insert(ctx, tx), errExpected)
		})
		if !errors.Is(err, errExpected) {
			t.Errorf("got %v", err)
		}
		if same := l.WithTx(t.Context(), hashkey.Name("k"), func(context.Context, *sql.Tx) error { return errExpected }); same != errExpected {
			t.Errorf("got %v, want the very error that fn returned", same)
		}
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
		if n := m.dials.Load() - dials; n != 0 {
			t.Errorf("it cost the pool %d connections", n)
		}
	})
}

// Rule 1: a panic rolls back, and reaches the caller with its value.
func TestPanicRollsBack(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		dials := m.dials.Load()
		var value any
		func() {
			defer func() { value = recover() }()
			_ = l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				_ = insert(ctx, tx)
				panic(errExpected)
			})
		}()
		if value != errExpected {
			t.Errorf("recovered %v, want what fn panicked with", value)
		}
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
		if n := m.dials.Load() - dials; n != 0 {
			t.Errorf("it cost the pool %d connections", n)
		}
	})
}

// Rule 1: runtime.Goexit, as in a test's FailNow, rolls back.
func TestGoexitRollsBack(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		t.Run("fn", func(t *testing.T) {
			_ = l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				_ = insert(ctx, tx)
				t.SkipNow() // which is Goexit, without failing this test
				return nil
			})
		})
		noTrace(t, db)
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	})
}

// Rule 2: the transaction is WithTx's to end.
func TestCommitInsideFn(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		var committed error
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			if err := insert(ctx, tx); err != nil {
				return err
			}
			committed = tx.Commit()
			return nil
		})
		if !errors.Is(err, xactlock.ErrTxEnded) {
			t.Errorf("got %v, want ErrTxEnded", err)
		}
		if isPlain(t) {
			return // there it can only be noticed
		}
		if !errors.Is(committed, xactlock.ErrTxEnded) {
			t.Errorf("tx.Commit() = %v, want ErrTxEnded", committed)
		}
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	})
}

// isPlain reports whether a test of onEachPath is on the plain path.
func isPlain(t *testing.T) bool { return paths[pathOf(t)].Plain }

// pathOf returns the name in paths of a test of onEachPath.
func pathOf(t *testing.T) string {
	name := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	return strings.ReplaceAll(name, "_", " ")
}

// Rule 2: neither may fn roll back, and SQL text that ends the transaction is
// noticed, also where it begins another one at once.
func TestOtherEndsInsideFn(t *testing.T) {
	for name, end := range map[string]func(tx *sql.Tx) error{
		"Rollback":           func(tx *sql.Tx) error { return tx.Rollback() },
		"commit":             endBy(`commit`),
		"rollback":           endBy(`rollback`),
		"query":              func(tx *sql.Tx) error { _, err := tx.Query(`rollback`); return ignoreNoRows(err) },
		"commit and chain":   endBy(`commit and chain`),
		"rollback AND CHAIN": endBy(`rollback AND CHAIN`),
		"commit; begin":      endBy(`commit; begin`),
		"end; start":         endBy(`end; START transaction`),
		"abort; begin":       endBy(`abort; begin; select 1`),
	} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				if isPlain(t) && strings.ContainsAny(name, " ;") {
					t.Skip("the plain path does not see what fn sends")
				}
				err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					return end(tx)
				})
				if !errors.Is(err, xactlock.ErrTxEnded) {
					t.Errorf("got %v, want ErrTxEnded", err)
				}
			})
		})
	}
}

func endBy(text string) func(*sql.Tx) error {
	return func(tx *sql.Tx) error { _, err := tx.Exec(text); return err }
}

func ignoreNoRows(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// Rule 1, the other way round: once the lock is gone, fn's statements are
// refused rather than run without it.
func TestNoStatementWithoutTheLock(t *testing.T) {
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	err := xactlock.New(db).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.Exec(`commit`); err != nil {
			return err
		}
		if err := insert(ctx, tx); !errors.Is(err, xactlock.ErrTxEnded) {
			t.Errorf("insert after commit: %v, want ErrTxEnded", err)
		}
		return nil
	})
	if !errors.Is(err, xactlock.ErrTxEnded) {
		t.Errorf("got %v, want ErrTxEnded", err)
	}
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows, want none", n)
	}
}

// Text that looks as if it could begin another transaction, and does not.
func TestSuspectTextCommits(t *testing.T) {
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	for _, key := range []hashkey.Key{hashkey.Name("k"), hashkey.Int64(-1), hashkey.Pair(-1, 1)} {
		err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.Exec(`do $$ begin insert into t values (1); end $$`)
			return err
		})
		if err != nil {
			t.Errorf("%v: %v", key, err)
		}
	}
	if n := rows(t, db); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
}

// Rule 2: a statement error that fn swallows leaves a failed transaction.
func TestSwallowedErrorIsAnError(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			_, _ = tx.ExecContext(ctx, `select 1/0`)
			return nil
		})
		if !errors.Is(err, pgx.ErrTxCommitRollback) {
			t.Errorf("got %v, want pgx.ErrTxCommitRollback", err)
		}
	})
}

// The server can refuse to commit; the reason reaches the caller.
func TestRefusedCommit(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		exec(t, db, `create table once (n int unique deferrable initially deferred)`)
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `insert into once values (1), (1)`)
			return err
		})
		const uniqueViolation = "23505"
		if code := sqlState(err); code != uniqueViolation || errors.Is(err, xactlock.ErrCommitUnknown) {
			t.Errorf("got %v, want SQLSTATE %s", err, uniqueViolation)
		}
	})
}

func sqlState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// All that database/sql can do works on the transaction that fn gets.
func TestTransactionIsWhole(t *testing.T) {
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

// traffic makes other calls until the test is over. While there are several at
// once, their transactions are not ended one by one.
func traffic(t *testing.T, dsn string) {
	t.Helper()
	l := xactlock.New(openDB(t, dsn))
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	t.Cleanup(func() { cancel(); others.Wait() })
	for i := range 2 {
		others.Go(func() {
			for ctx.Err() == nil {
				_ = l.WithTx(ctx, hashkey.Int64(int64(i)), func(context.Context, *sql.Tx) error { return nil })
			}
		})
	}
}

// A transaction that fn keeps is of no use to it afterwards, whatever it is
// used for.
func TestTransactionDoesNotOutliveTheCall(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		traffic(t, dsnOf(t, db))
		for i := range 50 {
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
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		traffic(t, dsnOf(t, db))
		var users sync.WaitGroup
		for i := range 100 {
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
	for name, wrap := range map[string]func(driver.Conn) driver.Conn{
		"pgx":     func(conn driver.Conn) driver.Conn { return conn },
		"wrapper": func(conn driver.Conn) driver.Conn { return &instrumented{conn.(*stdlib.Conn)} },
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.New(t).Database(t)
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(wrapper{stdlib.GetConnector(*config), wrap})
			t.Cleanup(func() { _ = db.Close() })
			db.SetMaxOpenConns(1)
			traffic(t, dsn)
			l := xactlock.New(db)
			var left []*sql.Rows
			for i := range 60 {
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

// Value returns fn's result only if it is committed.
func TestValue(t *testing.T) {
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		for _, want := range []error{nil, errExpected} {
			n, err := xactlock.Value(t.Context(), l, hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) (int, error) {
				return 42, want
			})
			if err != want || (n == 42) != (want == nil) {
				t.Errorf("got %d, %v after fn returned 42, %v", n, err, want)
			}
		}
	})
}
