package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// openOpaque opens a pool of pgx in a wrapper that hides it.
func openOpaque(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return closeAfter(t, sql.OpenDB(opaque{stdlib.GetConnector(*config)}))
}

// drivers are the pools on which rows may be left open.
var drivers = map[string]func(t *testing.T, dsn string) *sql.DB{
	"pgx": openPgx, "pgxpool": openPgxpool, "otelsql": openOtel, "lib/pq": openPq, "pgdriver": openPgdriver,
	"opaque pgx": openOpaque,
}

// leavesOpen are queries whose rows fn does not close, of one row and of more
// than come with one read.
var leavesOpen = map[string]func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error){
	"one row": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) { return tx.QueryContext(ctx, `select 1`) },
	"no row": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		return tx.QueryContext(ctx, `select 1 where false`)
	},
	"many rows": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		return tx.QueryContext(ctx, `select repeat('x', 1000) from generate_series(1, 5000)`)
	},
	"parameters": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		return tx.QueryContext(ctx, `select repeat('x', 1000) from generate_series(1, $1)`, 5000)
	},
	"prepared": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		stmt, err := tx.PrepareContext(ctx, `select repeat('x', 1000) from generate_series(1, $1)`)
		if err != nil {
			return nil, err
		}
		return stmt.QueryContext(ctx, 5000)
	},
	"without ctx": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		return tx.Query(`select repeat('x', 1000) from generate_series(1, 5000)`)
	},
}

// Rows that fn leaves open do not keep its writes from being committed.
func TestRowsLeftOpenCommit(t *testing.T) {
	for driver, open := range drivers {
		for _, isolation := range isolations {
			t.Run(driver+"/"+isolation.String(), func(t *testing.T) {
				dsn := pgtest.New(t).Scratch(t)
				watcher, db := openPgx(t, dsn), open(t, dsn)
				db.SetMaxOpenConns(1)
				exec(t, watcher, `create table counter (n int)`)
				exec(t, watcher, `insert into counter values (0)`)
				l := xactlock.New(db).With(xactlock.Options{Isolation: isolation})
				want := 0
				for name, query := range leavesOpen {
					err := l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
						if err := increment(ctx, tx); err != nil {
							return err
						}
						rows, err := query(ctx, tx)
						if err == nil {
							rows.Next()
						}
						return err
					})
					if err != nil {
						t.Errorf("%s: %v", name, err)
					} else {
						want++
					}
					if n := number(t, watcher, `select n from counter`); n != want {
						t.Errorf("%s: n = %d, want %d", name, n, want)
					}
				}
			})
		}
	}
}

// failsLater are queries whose error comes after more rows than come with one
// read.
var failsLater = map[string]func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error){
	"many rows": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		return tx.QueryContext(ctx, `select repeat('x', 1000), 1 / (n - 2500) from generate_series(1, 5000) n`)
	},
	"parameters": func(ctx context.Context, tx *sql.Tx) (*sql.Rows, error) {
		return tx.QueryContext(ctx, `select repeat('x', 1000), 1 / (n - 2500) from generate_series(1, $1) n`, 5000)
	},
}

// Rows that fn leaves open, and that end in an error of the server's, commit
// nothing, and the call says so.
func TestRowsLeftOpenThatFail(t *testing.T) {
	for driver, open := range drivers {
		for name, query := range failsLater {
			t.Run(driver+"/"+name, func(t *testing.T) {
				dsn := pgtest.New(t).Scratch(t)
				watcher, db := openPgx(t, dsn), open(t, dsn)
				exec(t, watcher, `create table counter (n int)`)
				exec(t, watcher, `insert into counter values (0)`)
				err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
					if err := increment(ctx, tx); err != nil {
						return err
					}
					_, err := query(ctx, tx)
					return err
				})
				if err == nil || errors.Is(err, xactlock.ErrCommitUnknown) {
					t.Errorf("got %v, want an error that says nothing is committed", err)
				}
				if n := number(t, watcher, `select n from counter`); n != 0 {
					t.Errorf("n = %d, want 0", n)
				}
				if err := xactlock.New(db).WithTx(t.Context(), key, increment); err != nil {
					t.Errorf("the next call: %v", err)
				}
			})
		}
	}
}

// An instrumented driver's rows end with ctx, and the lock and the connection
// stay.
func TestInstrumentedRowsEndWithContext(t *testing.T) {
	dsn := pgtest.New(t).Scratch(t)
	watcher, db := openPgx(t, dsn), openOtel(t, dsn)
	db.SetMaxOpenConns(1)
	pid := number(t, db, `select pg_backend_pid()`)
	const limit = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	err := xactlock.New(db).WithTx(ctx, key, func(ctx context.Context, tx *sql.Tx) error {
		// Seven seconds of rows, a few at a time.
		rows, err := tx.QueryContext(ctx, `select i, repeat('x', 2000), pg_sleep(0.01) from generate_series(1, 700) i`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		if n := number(t, watcher, `select count(*)`+advisory+`granted`); n != 1 {
			t.Errorf("%d locks are held inside fn, want 1", n)
		}
		return rows.Err()
	})
	if d := time.Since(began); d > limit+2*time.Second {
		t.Errorf("returned after %v, though ctx ended after %v", d, limit)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	if now := number(t, db, `select pg_backend_pid()`); now != pid {
		t.Errorf("session %d became %d", pid, now)
	}
}
