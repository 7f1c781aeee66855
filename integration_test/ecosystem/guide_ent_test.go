package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/ent"
	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/ent/account"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

type entAccounts struct {
	db     *sql.DB
	client *ent.Client
	locker *xactlock.Locker
}

func openEnt(url string) (*entAccounts, error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(10) // of this process
	db.SetMaxIdleConns(10) // the default of 2 closes the others after each use
	client := ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db)))
	return &entAccounts{db, client, xactlock.New(db)}, nil
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

func (a *entAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return xactlock.WithTxOf(ctx, a.locker, accounts.ID(id), a.client.Tx,
		func(ctx context.Context, tx *ent.Tx) error { return a.withdraw(ctx, tx.Client(), id, amount) })
}

func (a *entAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	tx, err := a.client.Tx(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := a.locker.Lock(ctx, tx, accounts.ID(id)); err != nil {
		return err
	}
	if err := a.withdraw(ctx, tx.Client(), id, amount); err != nil {
		return err
	}
	return tx.Commit()
}

func (a *entAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	query, args := entsql.Dialect(dialect.Postgres).Update(account.Table).Add(account.FieldBalance, -amount).
		Where(entsql.EQ(account.FieldID, id)).Where(entsql.GTE(account.FieldBalance, amount)).Query()
	return enough(a.locker.Exec(ctx, accounts.ID(id), query, args...))
}

// WithdrawOfSQL needs no feature of ent.
func (a *entAccounts) WithdrawOfSQL(ctx context.Context, id, amount int64) error {
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
			{"`WithTxOf` an `*ent.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`WithTxOf` a `*sql.Tx`, with the same driver", "plain", "WithTxOf", a.WithdrawOfSQL},
			{"`Lock` in an `*ent.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`, with ent's `sql` builder", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	// A hook is the client's to which Use gave it, and its transactions'.
	hooked := 0
	a.client.Use(func(next ent.Mutator) ent.Mutator {
		return ent.MutateFunc(func(ctx context.Context, m ent.Mutation) (ent.Value, error) {
			hooked++
			return next.Mutate(ctx, m)
		})
	})
	a.locker = a.locker.With(xactlock.Options{})
	setBalance(t, other, 5)
	for i, withdraw := range []withdrawal{a.WithdrawOf, a.WithdrawIn, a.Withdraw, a.WithdrawOfSQL, a.WithdrawExec} {
		if err := withdraw(t.Context(), 1, 1); err != nil {
			t.Error(err)
		}
		if want := min(i+1, 2); hooked != want {
			t.Errorf("%d calls of the hook after %d withdrawals, want %d", hooked, i+1, want)
		}
	}

	// The error of a hook that runs after COMMIT does not say that nothing is written,
	// nor does that of a statement of its own.
	for name, fails := range map[string]func(context.Context) error{
		"an error of its own": func(context.Context) error { return errExpected },
		"a statement":         func(ctx context.Context) error { _, err := other.ExecContext(ctx, `select 1/0`); return err },
		"a transaction":       func(context.Context) error { return sql.ErrTxDone },
	} {
		setBalance(t, other, 5)
		var hooks error
		err = xactlock.WithTxOf(t.Context(), a.locker, accounts.ID(1), a.client.Tx, func(ctx context.Context, tx *ent.Tx) error {
			tx.OnCommit(func(next ent.Committer) ent.Committer {
				return ent.CommitFunc(func(ctx context.Context, tx *ent.Tx) error {
					if err := next.Commit(ctx, tx); err != nil {
						return err
					}
					hooks = fails(ctx)
					return hooks
				})
			})
			return tx.Account.UpdateOneID(1).SetBalance(7).Exec(ctx)
		})
		if n := number(t, other, `select balance from accounts`); n != 7 || !errors.Is(err, xactlock.ErrCommitUnknown) || !errors.Is(err, hooks) {
			t.Errorf("a hook after COMMIT failed with %s: balance %d, error %v, want 7, ErrCommitUnknown and the hook's", name, n, err)
		}
	}

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
