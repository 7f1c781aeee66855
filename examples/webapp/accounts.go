package main

import (
	"context"
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

// accountStore keeps the accounts. Amounts are in cents.
type accountStore interface {
	// withdraw takes amount from an account and returns the new balance. It waits
	// until nobody else withdraws from this account; other accounts do not matter.
	withdraw(ctx context.Context, id, amount int64) (int64, error)

	// balance needs no lock: one SELECT sees one committed state.
	balance(ctx context.Context, id int64) (int64, error)

	// open opens an account. The primary key settles who is first, without a lock.
	open(ctx context.Context, id, balance int64) error
}

// decide returns why the withdrawal cannot be, or nil. It stands for what makes
// a service read, think and write, where one UPDATE with a condition would
// otherwise do and need no lock: rules in Go, a question to a risk service. It
// takes the time that they would.
func decide(ctx context.Context, think time.Duration, id, balance, amount int64) error {
	if err := sleep(ctx, think); err != nil {
		return err
	}
	if balance < amount {
		return fmt.Errorf("%w: account %d has %d", errInsufficient, id, balance)
	}
	return nil
}

// opened returns the error of an insert of n rows.
func opened(id, n int64, err error) error {
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %d", errAccountExists, id)
	}
	return err
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
