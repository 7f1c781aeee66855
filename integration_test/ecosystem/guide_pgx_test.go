package ecosystem

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/sqlcpgx"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

type pgxAccounts struct {
	pool   *pgxpool.Pool
	locker *pgxlock.Locker
}

func openPgxAccounts(ctx context.Context, url string) (*pgxAccounts, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 10 // of this process
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &pgxAccounts{pool, pgxlock.New(pool)}, nil
}

func (a *pgxAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx pgx.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *pgxAccounts) withdraw(ctx context.Context, tx pgx.Tx, id, amount int64) error {
	var balance int64
	if err := tx.QueryRow(ctx, `select balance from accounts where id = $1`, id).Scan(&balance); err != nil {
		return err
	}
	if balance < amount {
		return errInsufficient
	}
	_, err := tx.Exec(ctx, `update accounts set balance = $2 where id = $1`, id, balance-amount)
	return err
}

func (a *pgxAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		if err := a.locker.Lock(ctx, tx, accounts.ID(id)); err != nil {
			return err
		}
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *pgxAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	return enoughTag(a.locker.Exec(ctx, accounts.ID(id),
		`update accounts set balance = balance - $2 where id = $1 and balance >= $2`, id, amount))
}

// enoughTag returns the error of a withdrawal in one statement.
func enoughTag(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() == 0 {
		err = errInsufficient // or there is no such account
	}
	return err
}

func TestPgxAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	a, err := openPgxAccounts(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer a.pool.Close()
	guideTest{
		library: "pgx",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`pgxlock`: `WithTx`", "fast", "WithTx", a.Withdraw},
			{"`pgxlock`: `Lock` in a `pgx.Tx`", "fast", "Lock", a.WithdrawIn},
			{"`pgxlock`: `Exec`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	nothing := func(context.Context, pgx.Tx) error { return nil }
	err = a.locker.With(pgxlock.Options{Plain: true}).WithTx(t.Context(), key, nothing)
	if err == nil || !strings.Contains(err.Error(), "Options.Plain is for xactlock") {
		t.Errorf("Options.Plain: %v, want an error that names it", err)
	}
}

type sqlcPgxAccounts struct {
	queries *sqlcpgx.Queries // of sqlcpgx.New(pool)
	pool    *pgxpool.Pool
	locker  *pgxlock.Locker // of pgxlock.New(pool)
}

func (a *sqlcPgxAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx pgx.Tx) error {
		return a.withdraw(ctx, a.queries.WithTx(tx), id, amount)
	})
}

func (a *sqlcPgxAccounts) withdraw(ctx context.Context, queries *sqlcpgx.Queries, id, amount int64) error {
	balance, err := queries.GetBalance(ctx, id)
	if err != nil {
		return err
	}
	if balance < amount {
		return errInsufficient
	}
	return queries.SetBalance(ctx, sqlcpgx.SetBalanceParams{ID: id, Balance: balance - amount})
}

func (a *sqlcPgxAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		if err := a.locker.Lock(ctx, tx, accounts.ID(id)); err != nil {
			return err
		}
		return a.withdraw(ctx, a.queries.WithTx(tx), id, amount)
	})
}

func (a *sqlcPgxAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	return enoughTag(a.locker.Exec(ctx, accounts.ID(id), sqlcpgx.Withdraw, id, amount))
}

func TestSqlcPgxAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	opened, err := openPgxAccounts(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.pool.Close()
	a := &sqlcPgxAccounts{sqlcpgx.New(opened.pool), opened.pool, opened.locker}
	guideTest{
		library: "sqlc, for pgx",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`pgxlock`: `WithTx`, with `queries.WithTx(tx)`", "fast", "WithTx", a.Withdraw},
			{"`pgxlock`: `Lock` in a `pgx.Tx`", "fast", "Lock", a.WithdrawIn},
			{"`pgxlock`: `Exec`, with `emit_exported_queries`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)
}
