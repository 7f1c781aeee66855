package ecosystem

import (
	"context"
	"database/sql"
	"testing"
	"time"

	sq "github.com/Masterminds/squirrel"
	. "github.com/go-jet/jet/v2/postgres"
	"github.com/go-jet/jet/v2/stmtcache"

	"github.com/pgadvisory/pgadvisory/integration_test/ecosystem/sqlcdb"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

type sqlcAccounts struct {
	queries *sqlcdb.Queries // of sqlcdb.New(db)
	db      *sql.DB
	locker  *xactlock.Locker // of xactlock.New(db)
}

func (a *sqlcAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, a.queries.WithTx(tx), id, amount)
	})
}

func (a *sqlcAccounts) withdraw(ctx context.Context, queries *sqlcdb.Queries, id, amount int64) error {
	balance, err := queries.GetBalance(ctx, id)
	if err != nil {
		return err
	}
	if balance < amount {
		return errInsufficient
	}
	return queries.SetBalance(ctx, sqlcdb.SetBalanceParams{ID: id, Balance: balance - amount})
}

func (a *sqlcAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return ownTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, a.queries.WithTx(tx), id, amount)
	})
}

func (a *sqlcAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	return enough(a.locker.Exec(ctx, accounts.ID(id), sqlcdb.Withdraw, id, amount))
}

func (a *sqlcAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return ofTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, a.queries.WithTx(tx), id, amount)
	})
}

func TestSqlcAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	db := openPgx(t, dsn)
	a := &sqlcAccounts{sqlcdb.New(db), db, xactlock.New(db)}
	guideTest{
		library: "sqlc, for database/sql",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with `queries.WithTx(tx)`", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf` a `*sql.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `*sql.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`, with `emit_exported_queries`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)
}

// Queries that are prepared on the pool need Options.Plain.
func TestSqlcPreparedAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	db := openPgx(t, dsn)
	queries, err := sqlcdb.Prepare(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer queries.Close()
	a := &sqlcAccounts{queries, db, xactlock.New(db)}
	guideTest{
		library: "sqlc, with `emit_prepared_queries`",
		with: func(o xactlock.Options) {
			o.Plain = true
			a.locker = a.locker.With(o)
		},
		calls: []guideCall{
			{"`WithTx` with `Options.Plain`, and `queries.WithTx(tx)`", "plain", "WithTx", a.Withdraw},
		},
	}.run(t, other)

	a.locker = xactlock.New(db)
	if err := a.Withdraw(t.Context(), 1, 1); err == nil || !containsAll(err.Error(), "statement from different database") {
		t.Errorf("without Options.Plain: %v, want database/sql's error", err)
	}
}

type jetAccounts struct {
	db     *sql.DB
	locker *xactlock.Locker // of xactlock.New(db)
}

// What jet generates has these in its packages table and model.
var (
	accountID      = IntegerColumn("id")
	accountBalance = IntegerColumn("balance")
	accountTable   = NewTable("public", "accounts", "", accountID, accountBalance)
)

type jetAccount struct {
	ID      int64 `sql:"primary_key" alias:"accounts.id"`
	Balance int64 `alias:"accounts.balance"`
}

func (a *jetAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *jetAccounts) withdraw(ctx context.Context, tx *sql.Tx, id, amount int64) error {
	var account jetAccount
	read := SELECT(accountID, accountBalance).FROM(accountTable).WHERE(accountID.EQ(Int(id)))
	if err := read.QueryContext(ctx, tx, &account); err != nil {
		return err
	}
	if account.Balance < amount {
		return errInsufficient
	}
	write := accountTable.UPDATE(accountBalance).SET(Int(account.Balance - amount)).WHERE(accountID.EQ(Int(id)))
	_, err := write.ExecContext(ctx, tx)
	return err
}

func (a *jetAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return ownTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *jetAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	query, args := accountTable.UPDATE(accountBalance).SET(accountBalance.SUB(Int(amount))).
		WHERE(accountID.EQ(Int(id)).AND(accountBalance.GT_EQ(Int(amount)))).Sql()
	return enough(a.locker.Exec(ctx, accounts.ID(id), query, args...))
}
func (a *jetAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return ofTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func TestJetAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	db := openPgx(t, dsn)
	a := &jetAccounts{db, xactlock.New(db)}
	guideTest{
		library: "go-jet",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with `ExecContext(ctx, tx)`", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf` a `*sql.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `*sql.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`, with `Sql()`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	// A transaction of jet's cache of statements prepares each text.
	cache := stmtcache.New(db)
	defer cache.Close()
	tx, err := cache.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := xactlock.New(db)
	if err := l.Lock(t.Context(), tx, key); err == nil || !containsAll(err.Error(), "GetDBConn", "42601") {
		t.Errorf("Lock in a *stmtcache.Tx: %v, want an error that says what to do", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if tx, err = cache.BeginTx(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Lock(t.Context(), tx.Tx, key); err != nil {
		t.Errorf("Lock in the *sql.Tx of a *stmtcache.Tx: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
}

type squirrelAccounts struct {
	db     *sql.DB
	locker *xactlock.Locker // of xactlock.New(db)
}

// psql writes placeholders as PostgreSQL has them.
var psql = sq.StatementBuilder.PlaceholderFormat(sq.Dollar)

func (a *squirrelAccounts) Withdraw(ctx context.Context, id, amount int64) error {
	return a.locker.WithTx(ctx, accounts.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *squirrelAccounts) withdraw(ctx context.Context, tx *sql.Tx, id, amount int64) error {
	sql := psql.RunWith(tx)
	var balance int64
	read := sql.Select("balance").From("accounts").Where(sq.Eq{"id": id})
	if err := read.QueryRowContext(ctx).Scan(&balance); err != nil {
		return err
	}
	if balance < amount {
		return errInsufficient
	}
	_, err := sql.Update("accounts").Set("balance", balance-amount).Where(sq.Eq{"id": id}).ExecContext(ctx)
	return err
}

func (a *squirrelAccounts) WithdrawIn(ctx context.Context, id, amount int64) error {
	return ownTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func (a *squirrelAccounts) WithdrawExec(ctx context.Context, id, amount int64) error {
	query, args, err := psql.Update("accounts").Set("balance", sq.Expr("balance - ?", amount)).
		Where(sq.Eq{"id": id}).Where(sq.GtOrEq{"balance": amount}).ToSql()
	if err != nil {
		return err
	}
	return enough(a.locker.Exec(ctx, accounts.ID(id), query, args...))
}
func (a *squirrelAccounts) WithdrawOf(ctx context.Context, id, amount int64) error {
	return ofTx(ctx, a.db, a.locker, accounts.ID(id), func(tx *sql.Tx) error {
		return a.withdraw(ctx, tx, id, amount)
	})
}

func TestSquirrelAccounts(t *testing.T) {
	dsn, other := guideDatabase(t)
	db := openPgx(t, dsn)
	a := &squirrelAccounts{db, xactlock.New(db)}
	guideTest{
		library: "squirrel",
		with:    func(o xactlock.Options) { a.locker = a.locker.With(o) },
		calls: []guideCall{
			{"`WithTx`, with `RunWith(tx)`", "fast", "WithTx", a.Withdraw},
			{"`WithTxOf` a `*sql.Tx`", "plain", "WithTxOf", a.WithdrawOf},
			{"`Lock` in a `*sql.Tx`", "plain", "Lock", a.WithdrawIn},
			{"`Exec`, with `ToSql()`", "fast", "Exec", a.WithdrawExec},
		},
	}.run(t, other)

	// squirrel's own placeholders are not PostgreSQL's.
	_, err := sq.Select("balance").From("accounts").Where(sq.Eq{"id": 1}).RunWith(db).QueryContext(t.Context())
	if err == nil || !containsAll(err.Error(), "42601") {
		t.Errorf("a placeholder of squirrel's: %v, want a syntax error", err)
	}

	// What runs with the pool is in another transaction, in which the lock guards nothing.
	err = xactlock.New(db).WithTx(t.Context(), accounts.ID(1), func(ctx context.Context, _ *sql.Tx) error {
		if _, err := psql.RunWith(db).Insert("accounts").Values(2, 8).ExecContext(ctx); err != nil {
			return err
		}
		return errExpected
	})
	if n := number(t, other, `select count(*) from accounts where id = 2`); n != 1 || err != errExpected {
		t.Errorf("%d rows, error %v, want 1, which fn's error has not rolled back", n, err)
	}

	// And it waits for its own call, where that has the last connection.
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var runErr error
	err = xactlock.New(db).WithTx(ctx, accounts.ID(1), func(ctx context.Context, _ *sql.Tx) error {
		_, runErr = psql.RunWith(db).Delete("accounts").ExecContext(ctx)
		return runErr
	})
	if err != runErr || runErr != context.DeadlineExceeded {
		t.Errorf("a statement without a connection: %v, and the call: %v", runErr, err)
	}
}
