package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// txLocker is how a sqlAccounts takes turns. It is *xactlock.Locker, but in
// the demonstration, which tries the two in wrong.go as well.
type txLocker interface {
	WithTx(ctx context.Context, key hashkey.Key, fn func(ctx context.Context, tx *sql.Tx) error) error
}

// sqlAccounts is an accountStore on database/sql.
type sqlAccounts struct {
	db     *sql.DB
	locker txLocker
	think  time.Duration // see decide
}

func (s *sqlAccounts) withdraw(ctx context.Context, id, amount int64) (int64, error) {
	var balance int64
	err := s.locker.WithTx(ctx, accountLocks.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		before, err := readBalance(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := decide(ctx, s.think, id, before, amount); err != nil {
			return err
		}
		balance = before - amount
		_, err = tx.ExecContext(ctx, `update accounts set balance = $2 where id = $1`, id, balance)
		return err
	})
	if err != nil {
		return 0, err
	}
	return balance, nil
}

func (s *sqlAccounts) balance(ctx context.Context, id int64) (int64, error) {
	return readBalance(ctx, s.db, id)
}

func (s *sqlAccounts) open(ctx context.Context, id, balance int64) error {
	result, err := s.db.ExecContext(ctx,
		`insert into accounts (id, balance) values ($1, $2) on conflict do nothing`, id, balance)
	return openedRows(id, result, err)
}

// openedRows is opened for the result of an insert.
func openedRows(id int64, result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	return opened(id, n, err)
}

// queryer is a *sql.DB or a *sql.Tx.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readBalance(ctx context.Context, q queryer, id int64) (balance int64, err error) {
	err = q.QueryRowContext(ctx, `select balance from accounts where id = $1`, id).Scan(&balance)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("%w: %d", errNoAccount, id)
	}
	return balance, err
}
