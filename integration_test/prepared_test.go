package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// What is prepared is few statements for all keys, and only where pgx prepares
// statements as well.
func TestWhatIsPrepared(t *testing.T) {
	t.Parallel()
	for mode, want := range map[pgx.QueryExecMode]int{
		pgx.QueryExecModeCacheStatement: 10, // begin for three Options, a try for each kind of key and lock, savepoint, release, commit
		pgx.QueryExecModeCacheDescribe:  0,
		pgx.QueryExecModeDescribeExec:   0,
		pgx.QueryExecModeExec:           0,
		pgx.QueryExecModeSimpleProtocol: 0,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			db := openDB(t, newDatabase(t), func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
			db.SetMaxOpenConns(1)
			for _, o := range []xactlock.Options{{}, {Shared: true}, {ReadOnly: true}, {Isolation: sql.LevelReadUncommitted}} {
				for i := range int64(20) {
					for _, key := range []hashkey.Key{hashkey.Int64(i), hashkey.Pair(int32(i), 1)} {
						if err := xactlock.New(db).With(o).WithTx(t.Context(), key, nothing); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			var n int
			if err := db.QueryRow(`select count(*) from pg_prepared_statements where name = statement or name like 'pgadvisory %'`, pgx.QueryExecModeSimpleProtocol).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != want {
				t.Errorf("%d statements are prepared, want %d", n, want)
			}
		})
	}
}

// Statements that are gone, or in the way, cost a message, once for each
// connection, and nothing else.
func TestPreparedStatementsInvalid(t *testing.T) {
	t.Parallel()
	opening := locksql.Transaction{Keys: []hashkey.Key{hashkey.Name("k")}, Level: locksql.ReadCommitted}
	try := opening.Try().Statements[1].PreparedName()
	for name, spoil := range map[string]string{
		"gone":       `deallocate all`,
		"in the way": `deallocate all; prepare "` + try + `" as select 1`,
	} {
		t.Run(name, func(t *testing.T) {
			var m meter
			db := newTable(t, &m)
			db.SetMaxOpenConns(1)
			l := xactlock.New(db)
			ran := 0
			call := func() error {
				return l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					ran++
					return nil
				})
			}
			if err := call(); err != nil {
				t.Fatal(err)
			}
			exec(t, db, spoil)
			dials := m.dials.Load()
			if n := m.during(t, call); n > 4 {
				t.Errorf("%d messages when they are %s, want at most 4", n, name)
			}
			for range 3 {
				if n := m.during(t, call); n != 2 {
					t.Errorf("%d messages after they were %s, want 2", n, name)
				}
			}
			if ran != 5 || m.dials.Load() != dials {
				t.Errorf("fn ran %d times in 5 calls; %d connections", ran, m.dials.Load()-dials)
			}
			// An Exec prepares anew.
			for range 3 {
				if _, err := l.Exec(t.Context(), hashkey.Name("k"), `update t set n = n + $1`, 1); err != nil {
					t.Fatal(err)
				}
				exec(t, db, `deallocate all`)
			}
			if n := number(t, db, `select sum(n) from t`); n != 9 {
				t.Errorf("sum of n = %d after 3 updates of 3 rows, want 9", n)
			}
			noTrace(t, openSame(t, db), db)
		})
	}
}

// fn takes away the prepared statements of its session. Its transaction is
// committed all the same, and the next one as well.
func TestDeallocateInsideFn(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	config, err := pgx.ParseConfig(direct)
	wantNoError(t, err)
	watcher := openDB(t, direct)
	exec(t, watcher, `create table t (n int)`)
	const all, hidden = `/* none left */ DEALLOCATE all`, `do $$ begin execute 'deallocate all'; end $$`
	simple := pgx.QueryExecModeSimpleProtocol
	inSQL := func(f func(context.Context, *sql.Tx) error) func() error {
		db := openDB(t, direct)
		db.SetMaxOpenConns(1)
		return func() error {
			return xactlock.New(db).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `insert into t values (1)`, simple)
				return errors.Join(err, f(ctx, tx))
			})
		}
	}
	inPgx := func(f func(context.Context, pgx.Tx) error) func() error {
		pool := openPool(t, config, func(c *pgxpool.Config) { c.MaxConns = 1 })
		return func() error {
			return pgxlock.New(pool).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `insert into t values (1)`, simple)
				return errors.Join(err, f(ctx, tx))
			})
		}
	}
	calls := 0
	for name, call := range map[string]func() error{
		"Exec": inSQL(func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, all)
			return err
		}),
		"in a block": inSQL(func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, hidden)
			return err
		}),
		"Query": inSQL(func(ctx context.Context, tx *sql.Tx) error {
			rows, err := tx.QueryContext(ctx, all, simple)
			if err != nil {
				return err
			}
			return rows.Close()
		}),
		"Prepare": inSQL(func(ctx context.Context, tx *sql.Tx) error {
			stmt, err := tx.PrepareContext(ctx, hidden)
			if err != nil {
				return err
			}
			_, err = stmt.ExecContext(ctx)
			return err
		}),
		"pgx, Exec": inPgx(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, all)
			return err
		}),
		"pgx, Query": inPgx(func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, all, simple)
			if err != nil {
				return err
			}
			rows.Close()
			return rows.Err()
		}),
		"pgx, Prepare": inPgx(func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Prepare(ctx, "mine", hidden); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "mine")
			return err
		}),
		"pgx, SendBatch": inPgx(func(ctx context.Context, tx pgx.Tx) error {
			var b pgx.Batch
			b.Queue(`select 1`)
			b.Queue(all)
			return tx.SendBatch(ctx, &b).Close()
		}),
		"pgx, the Conn of a callback": inPgx(func(ctx context.Context, tx pgx.Tx) error {
			var conn *pgx.Conn
			var b pgx.Batch
			b.Queue(`select 1`).Query(func(rows pgx.Rows) error { conn = rows.Conn(); return nil })
			if err := tx.SendBatch(ctx, &b).Close(); err != nil {
				return err
			}
			return conn.DeallocateAll(ctx)
		}),
		"pgx, Conn": inPgx(func(ctx context.Context, tx pgx.Tx) error { return tx.Conn().DeallocateAll(ctx) }),
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		calls++
	}
	if n := number(t, watcher, `select count(*) from t`); n != calls {
		t.Errorf("%d rows, want %d", n, calls)
	}
	noTrace(t, watcher, watcher)
}

// A function on the server does it, of which nothing can be seen: the call fails as
// a whole, and says why. The next one does not.
func TestDeallocateInsideAFunction(t *testing.T) {
	t.Parallel()
	db := newTable(t, new(meter))
	db.SetMaxOpenConns(1)
	watcher := openSame(t, db)
	exec(t, db, `create function forget() returns void language plpgsql as $$ begin execute 'deallocate all'; end $$`)
	call := func() error {
		return xactlock.New(db).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `update t set n = n + 1; select forget()`, pgx.QueryExecModeSimpleProtocol)
			return err
		})
	}
	const invalidStatementName = "26000"
	if err := call(); lockerr.SQLState(err) != invalidStatementName || errors.Is(err, xactlock.ErrCommitUnknown) {
		t.Errorf("the first call: %v, want one with SQLSTATE %s", err, invalidStatementName)
	}
	if n := number(t, watcher, `select sum(n) from t`); n != 0 {
		t.Errorf("sum of n = %d after a call that has failed, want 0", n)
	}
	wantNoError(t, call())
	if n := number(t, watcher, `select sum(n) from t`); n != 3 {
		t.Errorf("sum of n = %d, want 3", n)
	}
	noTrace(t, watcher, db)
}

// A connection comes from the pool with a transaction that has failed, where a
// wrapper of the driver hides it. The first message that is prepared on it rolls
// back before the server parses anything else.
func TestPreparedInPlaceOfAFailedTransaction(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `begin; select 1/0`, pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Fatal("1/0 did not fail")
	}
	tx := &pgtx.Tx{
		Package:     "integration_test",
		Session:     pgsession.Of(conn),
		Transaction: &locksql.Transaction{Keys: []hashkey.Key{hashkey.Name("k")}, Level: locksql.ReadCommitted},
	}
	if granted, err := tx.Open(t.Context(), acquire.Opening{}); !granted || err != nil {
		t.Fatalf("Open: %v, %v", granted, err)
	}
	if outcome, err := tx.Commit(t.Context()); outcome != txlock.Committed || err != nil {
		t.Errorf("Commit: %v, %v", outcome, err)
	}
	const prepared = 6 // rollback, begin, the try, savepoint, release, commit
	var n int
	wantNoError(t, conn.QueryRow(t.Context(), `select count(*) from pg_prepared_statements`, pgx.QueryExecModeSimpleProtocol).Scan(&n))
	if n != prepared {
		t.Errorf("%d statements are prepared, want %d", n, prepared)
	}
}

// When a table changes under a prepared Exec, the Exec fails once at most.
func TestPreparedExecAfterAlterTable(t *testing.T) {
	t.Parallel()
	var m meter
	db := newTable(t, &m)
	db.SetMaxOpenConns(1)
	l := xactlock.New(db)
	var value any = 7
	update := func() error {
		_, err := l.Exec(t.Context(), hashkey.Name("k"), `update t set n = $1`, value)
		return err
	}
	for range 2 {
		if err := errors.Join(update(), l.WithTx(t.Context(), hashkey.Name("k"), nothing)); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, db, `alter table t alter n type date using null`)
	value = "2026-11-24"
	_ = update()
	if err := update(); err != nil {
		t.Errorf("the second Exec after ALTER TABLE: %v", err)
	}
	exec(t, db, `alter table t alter n type int using null`)
	value = 7 // no date, so that it is not even sent
	if err := update(); err != nil {
		t.Errorf("the first Exec with a value that only the new type has: %v", err)
	}
	if n := m.during(t, func() error { return l.WithTx(t.Context(), hashkey.Name("k"), nothing) }); n != 2 {
		t.Errorf("%d messages for a WithTx after that, want 2", n)
	}
}

// However many statements Execs run, few stay prepared.
func TestPreparedExecsAreFew(t *testing.T) {
	t.Parallel()
	db := newTable(t, new(meter))
	db.SetMaxOpenConns(1)
	const many = 300
	for i := range many {
		if _, err := xactlock.New(db).Exec(t.Context(), hashkey.Name("k"), fmt.Sprintf(`update t set n = n + 1 + %d - $1`, i), i); err != nil {
			t.Fatal(err)
		}
	}
	if n := number(t, db, `select n from t where id = 1`); n != many {
		t.Errorf("n = %d after %d Execs", n, many)
	}
	if n := number(t, db, `select count(*) from pg_prepared_statements where statement like 'update t%'`); n > 128 {
		t.Errorf("%d statements are prepared, want at most 128", n)
	}
}

// A PgBouncer that knows no prepared statements, and a pgx that uses them: each
// message may come to a session that has none, or that has those of another
// client.
func TestPreparedStatementsThroughPgBouncer(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	db := openDB(t, direct)
	exec(t, db, `create table t (n int)`)
	exec(t, db, `insert into t values (0)`)
	pool := openDB(t, pgtest.Bouncer(t, direct, "transaction"))
	const goroutines = 16
	each := stress(100)
	err := parallel(goroutines, func(i int) error {
		for range each {
			err := xactlock.New(pool).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				var n int
				if err := tx.QueryRowContext(ctx, `select n from t`, pgx.QueryExecModeSimpleProtocol).Scan(&n); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, `update t set n = $1`, pgx.QueryExecModeSimpleProtocol, n+1)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := number(t, db, `select n from t`); n != goroutines*each {
		t.Errorf("n = %d, want %d", n, goroutines*each)
	}
	noTrace(t, db, pool)
}

// Behind a pooler that does not know prepared statements, an Exec finds those of
// other clients on its session. It executes its own statement, or none.
func TestExecAmongForeignStatements(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	admin := openDB(t, direct)
	exec(t, admin, `create table a (n int); create table b (n int)`)
	dsn := pgtest.Bouncer(t, direct, "transaction")
	mode := func(config *pgx.ConnConfig) { config.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement }
	one, two, other := openDB(t, dsn, mode), openDB(t, dsn, mode), openDB(t, dsn)
	write := func(db *sql.DB, statement string, n int) {
		t.Helper()
		db.SetMaxOpenConns(1)
		if _, err := xactlock.New(db).Exec(t.Context(), hashkey.Name(statement), statement, n); err != nil {
			t.Error(err)
		}
	}
	takeSession := func() (giveBack func() error) { // that the pooler used last
		tx, err := other.Begin()
		if err != nil {
			t.Fatal(err)
		}
		number(t, tx, `select pg_backend_pid()`)
		return tx.Rollback
	}
	write(one, `insert into a values ($1)`, 1)
	giveBack := takeSession()
	write(two, `insert into b values ($1)`, 1)
	wantNoError(t, giveBack())
	giveBack = takeSession()
	write(one, `insert into a values ($1)`, 2)
	write(one, `insert into a values ($1)`, 3)
	wantNoError(t, giveBack())
	if a, b := number(t, admin, `select count(*) from a`), number(t, admin, `select count(*) from b`); a != 3 || b != 1 {
		t.Errorf("%d and %d rows, want 3 and 1", a, b)
	}
}
