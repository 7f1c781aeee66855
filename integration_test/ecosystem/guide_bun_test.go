package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

type bunAccount struct {
	bun.BaseModel `bun:"table:accounts"`
	ID            int64 `bun:"id,pk"`
	Balance       int64
}

type bunAccounts struct {
	db     *bun.DB
	locker *xactlock.Locker
}

func openBun(url string) (*bunAccounts, error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(10) // of this process
	db.SetMaxIdleConns(10) // the default of 2 closes the others after each use
	return &bunAccounts{bun.NewDB(db, pgdialect.New()), xactlock.New(db)}, nil
}

func (a *bunAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *bunAccounts) withdraw(ctx context.Context, tx bun.IConn, id, amount int64) error {
	account := bunAccount{ID: id}
	if err := a.db.NewSelect().Conn(tx).Model(&account).WherePK().Scan(ctx); err != nil {
		return err
	}
	if account.Balance < amount {
		return errInsufficient
	}
	account.Balance -= amount
	_, err := a.db.NewUpdate().Conn(tx).Model(&account).WherePK().Exec(ctx)
	return err
}

func (a *bunAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return xactlock.WithTxOf(ctx, a.locker, accounts.ID(id),
		func(ctx context.Context) (bun.Tx, error) { return a.db.BeginTx(ctx, nil) },
		func(ctx context.Context, tx bun.Tx) error { return a.withdraw(ctx, tx, id, amount) })
}

func (a *bunAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return a.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if err := a.locker.Lock(ctx, tx, accounts.ID(id)); err != nil {
			return err
		}
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *bunAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	update := a.db.NewUpdate().Model(&bunAccount{ID: id}).WherePK().
		Set("balance = balance - ?", amount).Where("balance >= ?", amount)
	return enough(a.locker.Exec(ctx, accounts.ID(id), update.String()))
}

func TestBunAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	a, err := openBun(dsn)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, a.db.DB)
	guideTest{
		library: "bun",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with `Conn(tx)`", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf` a `bun.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `bun.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	// A bun.Tx made from a *sql.Tx has no bun.DB.
	defer func() {
		if recover() == nil {
			t.Error("a bun.Tx without a bun.DB does not panic")
		}
	}()
	_ = a.locker.With(xactlock.Options{}).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		return bun.Tx{Tx: tx}.NewSelect().Table("accounts").Column("balance").Scan(ctx, new(int64))
	})
}

// bun's own driver is not pgx's.
func TestBunPgdriver(t *testing.T) {
	dsn, other := guideDatabase(t)
	db := openPgdriver(t, dsn)
	a := &bunAccounts{bun.NewDB(db, pgdialect.New()), xactlock.New(db)}
	guideTest{
		library: "bun, on its pgdriver",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with `Conn(tx)`", "plain", "WithTx", a.Withdraw},
			{"`Lock` in a `bun.Tx`", "plain", "Lock", a.WithdrawIn},
		},
	}.run(t, other)
	wantPgx(t, db)
}

// wantPgx checks what does not work on a driver that is not pgx's.
func wantPgx(t *testing.T, db *sql.DB) {
	t.Helper()
	for _, plain := range []bool{false, true} {
		err := xactlock.New(db).With(xactlock.Options{RequirePgx: true, Plain: plain}).WithTx(t.Context(), key, unreachable(t))
		if !errors.Is(err, xactlock.ErrDriver) || !containsAll(err.Error(), "Options.RequirePgx", ", and not *") {
			t.Errorf("RequirePgx, Plain %t: %v, want ErrDriver with the option and the driver's type", plain, err)
		}
	}
	if _, err := sessionlock.New(db).Lock(t.Context(), key); !errors.Is(err, sessionlock.ErrDriver) {
		t.Errorf("sessionlock: %v, want ErrDriver", err)
	}
}
