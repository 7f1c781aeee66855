package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/XSAM/otelsql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// enough returns the error of a withdrawal in one statement.
func enough(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = errInsufficient // or there is no such account
	}
	return err
}

type sqlAccounts struct {
	db     *sql.DB
	locker *xactlock.Locker
}

func newSQLAccounts(db *sql.DB) *sqlAccounts {
	db.SetMaxOpenConns(10) // of this process
	db.SetMaxIdleConns(10) // the default of 2 closes the others after each use
	return &sqlAccounts{db, xactlock.New(db)}
}

func (a *sqlAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *sqlAccounts) withdraw(ctx context.Context, tx *sql.Tx, id, amount int64) error {
	var balance int64
	if err := tx.QueryRowContext(ctx, `select balance from accounts where id = $1`, id).Scan(&balance); err != nil {
		return err
	}
	if balance < amount {
		return errInsufficient
	}
	_, err := tx.ExecContext(ctx, `update accounts set balance = $2 where id = $1`, id, balance-amount)
	return err
}

func (a *sqlAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return ownTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *sqlAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	return enough(a.locker.Exec(ctx, accounts.ID(id),
		`update accounts set balance = balance - $2 where id = $1 and balance >= $2`, id, amount))
}

// ownTx runs fn in a transaction of the program's own, which takes key.
func ownTx(ctx context.Context, db *sql.DB, locker *xactlock.Locker, key hashkey.Key, fn func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := locker.Lock(ctx, tx, key); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func (a *sqlAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return ofTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

// ofTx runs fn in a transaction of the program's own, with the queue that WithTx has.
func ofTx(ctx context.Context, db *sql.DB, locker *xactlock.Locker, key hashkey.Key, fn func(tx *sql.Tx) error) error {
	return xactlock.WithTxOf(ctx, locker, key,
		func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
		func(_ context.Context, tx *sql.Tx) error { return fn(tx) })
}

func (a *sqlAccounts) guide(library, path string) guideTest {
	return guideTest{
		library: library,
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`", path, "WithTx", a.Withdraw},
			{"`WithTxOf` a `*sql.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `*sql.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`", path, "Exec", a.WithdrawExec},
		},
	}
}

func TestSQLAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	newSQLAccounts(openPgx(t, dsn)).guide("database/sql, on pgx", "fast").run(t, other)
}

// lib/pq takes the plain path.
func TestPqAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	db := openPq(t, dsn)
	newSQLAccounts(db).guide("database/sql, on lib/pq", "plain").run(t, other)
	wantPgx(t, db)
}

func openOtelAccounts(url string) (*sqlAccounts, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	return newSQLAccounts(otelsql.OpenDB(stdlib.GetConnector(*config))), nil
}

func TestOtelsqlAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	a, err := openOtelAccounts(dsn)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, a.db)
	a.guide("otelsql, around pgx", "fast").run(t, other)

	// A wrapper that shows no way to the connection in it is not pgx.
	err = xactlock.New(openOpaque(t, dsn)).With(xactlock.Options{RequirePgx: true}).WithTx(t.Context(), key, unreachable(t))
	if !errors.Is(err, xactlock.ErrDriver) || !containsAll(err.Error(), "Options.RequirePgx", "ecosystem.opaqueConn") {
		t.Errorf("RequirePgx: %v, want ErrDriver with the option and the driver's type", err)
	}
}
