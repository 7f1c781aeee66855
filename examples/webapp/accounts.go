package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

var (
	errNoAccount     = errors.New("no such account")
	errAccountExists = errors.New("account exists already")
	errInsufficient  = errors.New("insufficient funds")
)

// accountLocks are the locks of single accounts. Whatever else writes a
// balance, in this program or another one, has to take the same lock.
const accountLocks = hashkey.Namespace("accounts")

// txLocker is how an accountStore takes turns. It is *xactlock.Locker, but in
// the demonstration, which tries the two in wrong.go as well.
type txLocker interface {
	WithTx(ctx context.Context, key hashkey.Key, fn func(ctx context.Context, tx *sql.Tx) error) error
}

// accountStore keeps the accounts. Amounts are in cents.
type accountStore struct {
	db     *sql.DB
	locker txLocker
	think  time.Duration // see decide
}

// withdraw takes amount from an account and returns the new balance. It waits
// until nobody else withdraws from this account; other accounts do not matter.
func (s *accountStore) withdraw(ctx context.Context, id, amount int64) (int64, error) {
	var balance int64
	err := s.locker.WithTx(ctx, accountLocks.ID(id), func(ctx context.Context, tx *sql.Tx) error {
		before, err := readBalance(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := s.decide(ctx, id, before, amount); err != nil {
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

// decide returns why the withdrawal cannot be, or nil. It stands for what makes
// a service read, think and write, where one UPDATE with a condition would
// otherwise do and need no lock: rules in Go, a question to a risk service. It
// takes the time that they would.
func (s *accountStore) decide(ctx context.Context, id, balance, amount int64) error {
	if err := sleep(ctx, s.think); err != nil {
		return err
	}
	if balance < amount {
		return fmt.Errorf("%w: account %d has %d", errInsufficient, id, balance)
	}
	return nil
}

// balance needs no lock: one SELECT sees one committed state.
func (s *accountStore) balance(ctx context.Context, id int64) (int64, error) {
	return readBalance(ctx, s.db, id)
}

// open opens an account. The primary key settles who is first, without a lock.
func (s *accountStore) open(ctx context.Context, id, balance int64) error {
	result, err := s.db.ExecContext(ctx,
		`insert into accounts (id, balance) values ($1, $2) on conflict do nothing`, id, balance)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %d", errAccountExists, id)
	}
	return nil
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

// sleep sleeps for d, or until ctx ends, whose error it then returns.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
