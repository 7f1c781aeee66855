// Package accountsdb has the shape of what sqlc generates for pgx/v5 from the
// queries in it. It is kept by hand.
package accountsdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DBTX is a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type DBTX interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	QueryRow(context.Context, string, ...any) pgx.Row
}

// New returns the queries on db.
func New(db DBTX) *Queries { return &Queries{db: db} }

// Queries are the queries, on a DBTX.
type Queries struct{ db DBTX }

// WithTx returns the queries on tx.
func (q *Queries) WithTx(tx pgx.Tx) *Queries { return &Queries{db: tx} }

const getBalance = `-- name: GetBalance :one
select balance from accounts where id = $1
`

// GetBalance returns the balance of an account.
func (q *Queries) GetBalance(ctx context.Context, id int64) (int64, error) {
	row := q.db.QueryRow(ctx, getBalance, id)
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
	_, err := q.db.Exec(ctx, setBalance, arg.ID, arg.Balance)
	return err
}

const openAccount = `-- name: OpenAccount :execrows
insert into accounts (id, balance) values ($1, $2) on conflict do nothing
`

// OpenAccountParams are the parameters of OpenAccount.
type OpenAccountParams struct {
	ID      int64
	Balance int64
}

// OpenAccount inserts an account, and returns 0 if it is there already.
func (q *Queries) OpenAccount(ctx context.Context, arg OpenAccountParams) (int64, error) {
	result, err := q.db.Exec(ctx, openAccount, arg.ID, arg.Balance)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected(), nil
}
