package ecosystem

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/ent"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

type entAccounts struct {
	db     *sql.DB
	locker *xactlock.Locker
}

func openEnt(url string) (*entAccounts, error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(10) // of this process
	db.SetMaxIdleConns(10) // the default of 2 closes the others after each use
	return &entAccounts{db, xactlock.New(db)}, nil
}

// entDriver is ent's driver on a transaction that somebody else has begun, and
// will end.
type entDriver struct{ entsql.Conn }

func (d entDriver) Tx(context.Context) (dialect.Tx, error) { return dialect.NopTx(d), nil }
func (d entDriver) Close() error                           { return nil }
func (d entDriver) Dialect() string                        { return dialect.Postgres }

func entOn(tx entsql.ExecQuerier) *ent.Client {
	return ent.NewClient(ent.Driver(entDriver{entsql.Conn{ExecQuerier: tx}}))
}

func (a *entAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, entOn(tx), id, amount)
	})
}

func (a *entAccounts) withdraw(ctx context.Context, client *ent.Client, id, amount int64) error {
	account, err := client.Account.Get(ctx, id)
	if err != nil {
		return err
	}
	if account.Balance < amount {
		return errInsufficient
	}
	return client.Account.UpdateOneID(id).SetBalance(account.Balance - amount).Exec(ctx)
}

func (a *entAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return ownTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, entOn(tx), id, amount)
	})
}
func (a *entAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return ofTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, entOn(tx), id, amount)
	})
}

func TestEntAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	a, err := openEnt(dsn)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, a.db)
	guideTest{
		library: "ent",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with a driver of six lines", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf` a `*sql.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `*sql.Tx`, with the same", "plain", "Lock", a.WithdrawIn},
		},
	}.run(t, other)

	// ent's own driver begins a transaction, which takes a *sql.DB.
	defer func() {
		if r := fmt.Sprint(recover()); !containsAll(r, "*sql.Tx, not *sql.DB") {
			t.Errorf("ent's own driver on a *sql.Tx: %v, want its panic", r)
		}
	}()
	_ = xactlock.New(a.db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		driver := entsql.NewDriver(dialect.Postgres, entsql.Conn{ExecQuerier: tx})
		return ent.NewClient(ent.Driver(driver)).Account.UpdateOneID(1).SetBalance(1).Exec(ctx)
	})
}
