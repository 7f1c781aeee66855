package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// onEachMode runs a test in each of pgx's modes, over a pool of one connection
// to a database with a table t (n int).
func onEachMode(t *testing.T, test func(t *testing.T, db *sql.DB, l *xactlock.Locker)) {
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			db := openMetered(t, newDatabase(t), new(meter), func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
			db.SetMaxOpenConns(1)
			exec(t, db, `create table t (n int)`)
			test(t, db, xactlock.New(db))
			noTrace(t, openSame(t, db), db)
		})
	}
}

// onlyBackend returns the process that serves the only connection of db.
func onlyBackend(t *testing.T, db *sql.DB) int { return number(t, db, `select pg_backend_pid()`) }

// keepsConnection checks that f leaves the only connection of db in the pool.
func keepsConnection(t *testing.T, db *sql.DB, f func()) {
	t.Helper()
	before := onlyBackend(t, db)
	f()
	if after := onlyBackend(t, db); after != before {
		t.Errorf("the connection was replaced: backend %d, then %d", before, after)
	}
}

// A statement that ends the transaction is reported, as in WithTx, and one that
// does not is a statement like any other.
func TestExecOfTransactionStatements(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		keepsConnection(t, db, func() {
			for _, query := range []string{"rollback", "commit", "commit and chain", "rollback -- and no more"} {
				if _, err := l.Exec(t.Context(), hashkey.Name("k"), query); !errors.Is(err, xactlock.ErrTxEnded) {
					t.Errorf("%s: got %v, want ErrTxEnded", query, err)
				}
			}
			for _, query := range []string{"savepoint a", "begin", "insert into t values (1)"} {
				if _, err := l.Exec(t.Context(), hashkey.Name("k"), query); err != nil {
					t.Errorf("%s: %v", query, err)
				}
			}
		})
		if n := rows(t, db); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// A text without a statement is what it is to database/sql: nothing to do. A
// comment at the end of a statement hides nothing behind it.
func TestExecOfNothing(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		keepsConnection(t, db, func() {
			for _, query := range []string{"", "  \n", "-- nothing", "/* nothing */", ";"} {
				result, err := l.Exec(t.Context(), hashkey.Name("k"), query)
				if err != nil {
					t.Errorf("%q: %v", query, err)
				} else if n, err := result.RowsAffected(); n != 0 || err != nil {
					t.Errorf("%q: %d rows affected, %v", query, n, err)
				}
			}
			result, err := l.Exec(t.Context(), hashkey.Name("k"), "insert into t values ($1) -- done", 1)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := result.RowsAffected(); n != 1 || err != nil {
				t.Errorf("%d rows affected, %v", n, err)
			}
		})
		if n := rows(t, db); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// COPY to the client succeeds, as with pgx alone. COPY from the client, where
// pgx alone waits for ever, fails and changes nothing, also behind a comment and
// where Exec takes three messages.
func TestExecOfCopy(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		for name, o := range map[string]xactlock.Options{
			"one message": {}, "plain": {Plain: true}, "serializable": {Isolation: sql.LevelSerializable}, "MaxHold": {MaxHold: time.Minute},
		} {
			t.Run(name, func(t *testing.T) { execOfCopy(t, db, l.With(o)) })
		}
	})
}

func execOfCopy(t *testing.T, db *sql.DB, l *xactlock.Locker) {
	keepsConnection(t, db, func() {
		for _, query := range []string{"copy (select 1) to stdout", "copy (select 'copy t from stdin') to stdout"} {
			if _, err := l.Exec(t.Context(), hashkey.Name("k"), query); err != nil {
				t.Errorf("%s: %v", query, err)
			}
		}
		for _, query := range []string{"copy t from stdin", "/* a comment */ copy t from stdin"} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := l.Exec(ctx, hashkey.Name("k"), query)
			cancel()
			if err == nil || errors.Is(err, xactlock.ErrCommitUnknown) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v", query, err)
			}
		}
		if _, err := l.Exec(bounded(t), hashkey.Name("k"), "insert into t values (1)"); err != nil {
			t.Error(err)
		}
	})
}

// A text of several statements is refused, or executed and reported right.
func TestExecOfSeveralStatements(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		exec(t, db, `create table parent (id int primary key);
			create table child (id int references parent deferrable initially deferred)`)
		if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into t values (1); insert into child values (1)`); err == nil {
			t.Error("no error, where COMMIT cannot succeed")
		}
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows of a transaction that failed", n)
		}
		result, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into t values (1); update t set n = 2 where n = 3`)
		if err == nil {
			if n, err := result.RowsAffected(); n != 0 || err != nil {
				t.Errorf("an UPDATE of no row: %d rows affected, %v", n, err)
			}
		}
		if want, n := map[bool]int{true: 1, false: 0}[err == nil], rows(t, db); n != want {
			t.Errorf("%d rows after %v", n, err)
		}
		if result, err = l.Exec(t.Context(), hashkey.Name("k"), `update t set n = 2 where n = $1`, 3); err != nil {
			t.Error(err)
		} else if n, err := result.RowsAffected(); n != 0 || err != nil {
			t.Errorf("an UPDATE of no row: %d rows affected, %v", n, err)
		}
	})
}

// pgx's options come first among the arguments, as in WithTx.
func TestExecOptionsOfPgx(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		for _, mode := range execModes {
			if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into t values ($1)`, mode, 1); err != nil {
				t.Errorf("%v: %v", mode, err)
			}
			named := []any{mode, pgx.NamedArgs{"n": 1}}
			if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into t values (@n)`, named...); err != nil {
				t.Errorf("%v with named arguments: %v", mode, err)
			}
		}
		if n := number(t, db, `select sum(n) from t`); n != 2*len(execModes) {
			t.Errorf("sum %d, want %d", n, 2*len(execModes))
		}
	})
}

// An argument with a name is its value, as with database/sql.
func TestExecNamedArgument(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		exec(t, db, `create table named (n int, v text, j json)`)
		args := []any{sql.Named("n", 5), sql.Named("v", new(counted)), sql.Named("j", `{"a":1}`)}
		if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into named values ($1, $2, $3)`, args...); err != nil {
			t.Fatal(err)
		}
		if n := number(t, db, `select count(*) from named where n = 5 and v = '7' and j::text = '{"a":1}'`); n != 1 {
			t.Error("other values are stored")
		}
		if _, ok := args[0].(sql.NamedArg); !ok {
			t.Error("the caller's arguments are changed")
		}
	})
}

type tenantKey struct{}

// ofTenant rewrites a query with what it finds in ctx.
type ofTenant struct{}

func (ofTenant) RewriteQuery(ctx context.Context, _ *pgx.Conn, sql string, args []any) (string, []any, error) {
	return sql, append(args, ctx.Value(tenantKey{})), nil
}

// What an Exec reads from ctx is its own caller's.
func TestExecReadsItsOwnContext(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table t (wanted int, tenant int)`)
	l := xactlock.New(db)
	err := parallel(64, func(i int) error {
		ctx := context.WithValue(t.Context(), tenantKey{}, i)
		for range 10 {
			if _, err := l.Exec(ctx, hashkey.Name("k"), `insert into t values ($1, $2)`, ofTenant{}, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := number(t, db, `select count(*) from t where wanted <> tenant`); n > 0 {
		t.Errorf("%d of 640 rows are another tenant's", n)
	}
}

// counted is a parameter that counts how often it is asked for its value.
type counted struct {
	times  atomic.Int32
	panics bool
}

func (c *counted) Value() (driver.Value, error) {
	if c.times.Add(1); c.panics {
		panic("in Value")
	}
	return "7", nil
}

// A parameter is asked for its value once, as by pgx alone. A panic in it reaches the
// caller, and leaves nothing behind.
func TestExecEncodesOnce(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		const query = `insert into t select length($1::text)`
		for range 3 {
			c := new(counted)
			if _, err := l.Exec(t.Context(), hashkey.Name("k"), query, c); err != nil {
				t.Fatal(err)
			}
			if n := c.times.Load(); n != 1 {
				t.Errorf("Value was called %d times", n)
			}
		}
		keepsConnection(t, db, func() {
			defer func() {
				if value := recover(); value != "in Value" {
					t.Errorf("the panic is %v", value)
				}
			}()
			_, err := l.Exec(t.Context(), hashkey.Name("k"), query, &counted{panics: true})
			t.Errorf("no panic, but %v", err)
		})
		if n := rows(t, db); n != 3 {
			t.Errorf("%d rows, want 3", n)
		}
	})
}

// An Exec that fails leaves alone what the program has prepared on the
// connection.
func TestExecLeavesPreparedStatements(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Prepare(ctx, "mine", `select 42`)
		return err
	}))
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec(t, db, `create table t (n int)`)
	l := xactlock.New(db)
	for code, query := range map[string]string{
		"22012": `insert into t select 1 / $1::int`,
		"42P01": `insert into missing values ($1::int)`,
		"42703": `update t set missing = $1::int`,
		"26000": `execute missing($1)`,
		"0A000": `insert into t select $1::int for update of t`,
	} {
		if _, err := l.Exec(t.Context(), hashkey.Name("k"), query, 0); err == nil {
			t.Errorf("%s (%s): no error", query, code)
		}
		if n := number(t, db, `mine`); n != 42 {
			t.Errorf("after %s the statement returns %d", code, n)
		}
	}
	if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into t values ($1)`, 1); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the statements of Exec's own are missing now
		exec(t, db, `deallocate all`)
		if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into t values ($1)`, 1); err != nil {
			t.Errorf("after DEALLOCATE ALL: %v", err)
		}
	}
}

// More parameters than PostgreSQL takes are a clear error, and cost no
// connection.
func TestExecOfTooManyParameters(t *testing.T) {
	t.Parallel()
	var m meter
	db := newTable(t, &m)
	db.SetMaxOpenConns(1)
	keepsConnection(t, db, func() {
		before := m.dials.Load()
		_, err := xactlock.New(db).Exec(t.Context(), hashkey.Name("k"), `select`, make([]any, 65536)...)
		if err == nil || !strings.Contains(err.Error(), "65536") {
			t.Errorf("got %v, want an error that says how many", err)
		}
		if n := m.dials.Load() - before; n > 0 {
			t.Errorf("%d new connections", n)
		}
	})
}

// An Exec that goes in one message is told to pgx's tracer.
func TestExecIsTraced(t *testing.T) {
	t.Parallel()
	traced := new(tracer)
	db := openMetered(t, newDatabase(t), new(meter), func(c *pgx.ConnConfig) { c.Tracer = traced })
	exec(t, db, `create table t (n int)`)
	if _, err := xactlock.New(db).Exec(t.Context(), hashkey.Name("k"), `insert into t values ($1)`, 1); err != nil {
		t.Fatal(err)
	}
	if traced.last != "insert into t values ($1): INSERT 0 1" {
		t.Errorf("the last that was traced: %s", traced.last)
	}
}

type tracer struct{ query, last string }

func (tr *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	tr.query = data.SQL
	return ctx
}

func (tr *tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	tr.last = fmt.Sprintf("%s: %s", tr.query, data.CommandTag)
}

// A table that changes under a statement that Exec has prepared or described
// costs one call at most; the next succeeds, and the connection stays.
func TestExecAfterAlterTable(t *testing.T) {
	t.Parallel()
	changes := []string{
		`alter table t add column more text default 'x'`,
		`alter table t alter column n type text`,
		`alter table t alter column n type int using n::int`,
		`alter table t drop column more`,
	}
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec,
		pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			direct := newDatabase(t)
			owner := openDB(t, direct)
			db := openDB(t, direct, func(config *pgx.ConnConfig) { config.DefaultQueryExecMode = mode })
			db.SetMaxOpenConns(1)
			exec(t, owner, `create table t (n int, m int)`)
			l := xactlock.New(db)
			call := func() error {
				_, err := l.Exec(t.Context(), hashkey.Name("k"), `update t set n = n returning *`)
				return err
			}
			keepsConnection(t, db, func() {
				if err := call(); err != nil {
					t.Fatal(err)
				}
				for _, change := range changes {
					exec(t, owner, change)
					if first := call(); first != nil {
						if err := call(); err != nil {
							t.Errorf("after %s: %v, then %v", change, first, err)
						}
					}
				}
			})
		})
	}
}

// The type of a parameter that is dropped and created anew costs one call at most.
func TestExecAfterTypeAnew(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		owner := openSame(t, db)
		create := func() {
			t.Helper()
			exec(t, owner, `drop table if exists typed`)
			exec(t, owner, `drop type if exists letter`)
			exec(t, owner, `create type letter as enum ('a', 'b')`)
			exec(t, owner, `create table typed (n letter)`)
		}
		call := func() error {
			_, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into typed values ($1)`, "a")
			return err
		}
		create()
		keepsConnection(t, db, func() {
			if err := call(); err != nil {
				t.Fatal(err)
			}
			create()
			if first := call(); first != nil {
				if err := call(); err != nil {
					t.Errorf("%v, then %v", first, err)
				}
			}
		})
	})
}

// A statement that has begun is not sent again, whatever SQLSTATE it raises.
func TestExecRunsOnce(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		exec(t, db, `create sequence runs`)
		for _, code := range []string{"26000", "42P05", "0A000"} {
			exec(t, db, `alter sequence runs restart`)
			exec(t, db, fmt.Sprintf(`create or replace function fails() returns int language plpgsql as
				$$ begin perform nextval('runs'); raise sqlstate '%s'; end $$`, code))
			if _, err := l.Exec(t.Context(), hashkey.Name("k"), `select fails()`); sqlState(err) != code {
				t.Errorf("got %v, want SQLSTATE %s", err, code)
			}
			if n := number(t, db, `select last_value from runs`); n != 1 {
				t.Errorf("%s: it ran %d times", code, n)
			}
		}
	})
}

// The statement sees the table that the holder before it has made, and lock_timeout
// does not end its wait for one that this holder has locked.
func TestExecOfTheHoldersTable(t *testing.T) {
	t.Parallel()
	onEachMode(t, func(t *testing.T, db *sql.DB, l *xactlock.Locker) {
		exec(t, db, fmt.Sprintf(`set lock_timeout = '%s'`, shortLimit))
		holders := openSame(t, db)
		key := hashkey.Name("k")
		for name, text := range map[string]string{"makes": `create table made (n int)`, "locks": `lock table t`} {
			statement := `insert into t values ($1)`
			if name == "makes" {
				statement = `insert into made values ($1)`
			}
			ended := make(chan error, 1)
			wantNoError(t, xactlock.New(holders).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, text)
				go func() {
					_, err := l.Exec(t.Context(), key, statement, 1)
					ended <- err
				}()
				until(t, "Exec waits", func() bool { return waitingLocks(t, holders) > 0 || len(ended) > 0 })
				if len(ended) == 0 {
					outwaits(t, holders)
				}
				return err
			}))
			if err := <-ended; err != nil {
				t.Errorf("the holder %s the table: %v", name, err)
			}
		}
	})
}
