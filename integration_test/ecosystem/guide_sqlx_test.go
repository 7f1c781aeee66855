package ecosystem

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

type sqlxAccounts struct {
	db     *sqlx.DB
	locker *xactlock.Locker
}

func openSqlx(url string) (*sqlxAccounts, error) {
	db, err := sqlx.Open("pgx", url)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(10) // of this process
	db.SetMaxIdleConns(10) // the default of 2 closes the others after each use
	return &sqlxAccounts{db, xactlock.New(db.DB)}, nil
}

func (a *sqlxAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, &sqlx.Tx{Tx: tx, Mapper: a.db.Mapper}, id, amount)
	})
}

func (a *sqlxAccounts) withdraw(ctx context.Context, tx *sqlx.Tx, id, amount int64) error {
	var account struct{ Balance int64 }
	if err := tx.GetContext(ctx, &account, `select balance from accounts where id = $1`, id); err != nil {
		return err
	}
	if account.Balance < amount {
		return errInsufficient
	}
	_, err := tx.ExecContext(ctx, `update accounts set balance = $2 where id = $1`, id, account.Balance-amount)
	return err
}

func (a *sqlxAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return xactlock.WithTxOf(ctx, a.locker, accounts.ID(id),
		func(ctx context.Context) (*sqlx.Tx, error) { return a.db.BeginTxx(ctx, nil) },
		func(ctx context.Context, tx *sqlx.Tx) error { return a.withdraw(ctx, tx, id, amount) })
}

func (a *sqlxAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	tx, err := a.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := a.locker.Lock(ctx, tx, accounts.ID(id)); err != nil {
		return err
	}
	if err := a.withdraw(ctx, tx, id, amount); err != nil {
		return err
	}
	return tx.Commit()
}

func (a *sqlxAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	query, args, err := a.db.BindNamed(`update accounts set balance = balance - :amount where id = :id and balance >= :amount`,
		map[string]any{"id": id, "amount": amount})
	if err != nil {
		return err
	}
	return enough(a.locker.Exec(ctx, accounts.ID(id), query, args...))
}

func TestSqlxAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	a, err := openSqlx(dsn)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, a.db.DB)
	guideTest{
		library: "sqlx",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with `sqlx.Tx{Tx: tx}`", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf` a `*sqlx.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `*sqlx.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	// Made from a *sql.Tx, it does not know how placeholders are written.
	err = a.locker.With(xactlock.Options{}).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		_, err := (&sqlx.Tx{Tx: tx, Mapper: a.db.Mapper}).NamedExecContext(ctx,
			`update accounts set balance = 0 where id = :id`, map[string]any{"id": 1})
		return err
	})
	if err == nil || !containsAll(err.Error(), "42601") {
		t.Errorf("a named query: %v, want a syntax error", err)
	}
}
