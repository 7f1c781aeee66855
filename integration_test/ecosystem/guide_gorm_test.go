package ecosystem

import (
	"context"
	"database/sql"
	"testing"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

type gormAccount struct {
	ID      int64
	Balance int64
}

func (gormAccount) TableName() string { return "accounts" }

type gormAccounts struct {
	db     *gorm.DB
	locker *xactlock.Locker
}

func openGormAccounts(url string) (*gormAccounts, error) {
	db, err := gorm.Open(postgres.Open(url), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		return nil, err
	}
	pool, err := db.DB() // of pgx
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(10) // of this process
	pool.SetMaxIdleConns(10) // the default of 2 closes the others after each use
	return &gormAccounts{db, xactlock.New(pool)}, nil
}

// on returns gorm on a transaction that somebody else has begun, and will end.
func (a *gormAccounts) on(ctx context.Context, tx *sql.Tx) *gorm.DB {
	session := a.db.Session(&gorm.Session{NewDB: true, Context: ctx})
	session.Statement.ConnPool = tx
	return session
}

func (a *gormAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(a.on(ctx, tx), id, amount)
	})
}

func (a *gormAccounts) withdraw(tx *gorm.DB, id, amount int64) error {
	var account gormAccount
	if err := tx.First(&account, id).Error; err != nil {
		return err
	}
	if account.Balance < amount {
		return errInsufficient
	}
	account.Balance -= amount
	return tx.Save(&account).Error
}

// gormTx makes a transaction of gorm one for xactlock.
type gormTx struct{ *gorm.DB }

func (tx gormTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return tx.Statement.ConnPool.ExecContext(ctx, query, args...)
}
func (tx gormTx) Commit() error   { return tx.DB.Commit().Error }
func (tx gormTx) Rollback() error { return tx.DB.Rollback().Error }

// GetDBConn says that gorm may prepare each text.
func (tx gormTx) GetDBConn() (*sql.DB, error) { return tx.DB.DB() }

func (a *gormAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return xactlock.WithTxOf(ctx, a.locker, accounts.ID(id),
		func(ctx context.Context) (gormTx, error) {
			tx := a.db.WithContext(ctx).Begin()
			return gormTx{tx}, tx.Error
		},
		func(ctx context.Context, tx gormTx) error { return a.withdraw(tx.WithContext(ctx), id, amount) })
}

func (a *gormAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return a.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := a.locker.Lock(ctx, gormTx{tx}, accounts.ID(id)); err != nil {
			return err
		}
		return a.withdraw(tx, id, amount)
	})
}

func (a *gormAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	text := a.db.Session(&gorm.Session{DryRun: true, SkipDefaultTransaction: true}) // else it sends BEGIN and COMMIT
	update := text.Model(&gormAccount{ID: id}).
		Where("balance >= ?", amount).Update("balance", gorm.Expr("balance - ?", amount)).Statement
	return enough(a.locker.Exec(ctx, accounts.ID(id), update.SQL.String(), update.Vars...))
}

func TestGormAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	a, err := openGormAccounts(dsn)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := a.db.DB()
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, pool)
	guideTest{
		library: "gorm",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with the `ConnPool` of a session", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf`, with ten lines around `*gorm.DB`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock`, with the same", "plain", "Lock", a.WithdrawIn},
			{"`Exec`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	// A transaction of gorm's within that of WithTx is a savepoint.
	l := a.locker.With(xactlock.Options{})
	err = l.WithTx(t.Context(), accounts.ID(1), func(ctx context.Context, tx *sql.Tx) error {
		err := a.on(ctx, tx).Transaction(func(tx *gorm.DB) error {
			return tx.Exec(`select 1/0`).Error
		})
		if err == nil || !containsAll(err.Error(), "22012") {
			t.Errorf("got %v, want a division by zero", err)
		}
		return a.on(ctx, tx).Save(&gormAccount{ID: 1, Balance: 7}).Error
	})
	if n := number(t, other, `select balance from accounts`); err != nil || n != 7 {
		t.Errorf("balance %d (error %v), want 7", n, err)
	}

	// With PrepareStmt the same code works, and gorm prepares nothing.
	prepared := &gormAccounts{openGorm(t, pool, true), l}
	err = prepared.Withdraw(t.Context(), 1, 3)
	if n := number(t, other, `select balance from accounts`); err != nil || n != 4 {
		t.Errorf("balance %d (error %v), want 4", n, err)
	}
	if texts := prepared.db.ConnPool.(*gorm.PreparedStmtDB).Stmts.Keys(); len(texts) != 0 {
		t.Errorf("gorm has prepared %q", texts)
	}
}
