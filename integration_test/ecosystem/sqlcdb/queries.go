// Package sqlcdb has the shape of what sqlc generates for database/sql, with
// emit_prepared_queries, from two queries. It is kept by hand.
package sqlcdb

import (
	"context"
	"database/sql"
)

// DBTX is a *sql.DB or a *sql.Tx.
type DBTX interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// New returns the queries on db, unprepared.
func New(db DBTX) *Queries { return &Queries{db: db} }

// Prepare returns the queries on db, prepared.
func Prepare(ctx context.Context, db DBTX) (*Queries, error) {
	q := Queries{db: db}
	var err error
	if q.getBalanceStmt, err = db.PrepareContext(ctx, getBalance); err != nil {
		return nil, err
	}
	if q.setBalanceStmt, err = db.PrepareContext(ctx, setBalance); err != nil {
		return nil, err
	}
	return &q, nil
}

// Queries are the queries, on a DBTX.
type Queries struct {
	db             DBTX
	tx             *sql.Tx
	getBalanceStmt *sql.Stmt
	setBalanceStmt *sql.Stmt
}

// WithTx returns the queries on tx.
func (q *Queries) WithTx(tx *sql.Tx) *Queries {
	return &Queries{db: tx, tx: tx, getBalanceStmt: q.getBalanceStmt, setBalanceStmt: q.setBalanceStmt}
}

func (q *Queries) exec(ctx context.Context, stmt *sql.Stmt, query string, args ...any) (sql.Result, error) {
	switch {
	case stmt != nil && q.tx != nil:
		return q.tx.StmtContext(ctx, stmt).ExecContext(ctx, args...)
	case stmt != nil:
		return stmt.ExecContext(ctx, args...)
	default:
		return q.db.ExecContext(ctx, query, args...)
	}
}

func (q *Queries) queryRow(ctx context.Context, stmt *sql.Stmt, query string, args ...any) *sql.Row {
	switch {
	case stmt != nil && q.tx != nil:
		return q.tx.StmtContext(ctx, stmt).QueryRowContext(ctx, args...)
	case stmt != nil:
		return stmt.QueryRowContext(ctx, args...)
	default:
		return q.db.QueryRowContext(ctx, query, args...)
	}
}

const getBalance = `-- name: GetBalance :one
select balance from accounts where id = $1
`

// GetBalance returns the balance of an account.
func (q *Queries) GetBalance(ctx context.Context, id int64) (int64, error) {
	row := q.queryRow(ctx, q.getBalanceStmt, getBalance, id)
	var balance int64
	err := row.Scan(&balance)
	return balance, err
}

const setBalance = `-- name: SetBalance :exec
update accounts set balance = $2 where id = $1
`

// SetBalanceParams are the parameters of SetBalance.
type SetBalanceParams struct {
	ID      int64
	Balance int64
}

// SetBalance writes the balance of an account.
func (q *Queries) SetBalance(ctx context.Context, arg SetBalanceParams) error {
	_, err := q.exec(ctx, q.setBalanceStmt, setBalance, arg.ID, arg.Balance)
	return err
}
