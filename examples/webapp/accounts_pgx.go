package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/examples/webapp/accountsdb"
	"github.com/pgadvisory/pgadvisory/pgxlock"
)

// pgxAccounts is an accountStore on pgx's own pool, with queries in the shape of
// sqlc's.
type pgxAccounts struct {
	queries *accountsdb.Queries // on the pool
	locker  *pgxlock.Locker
	think   time.Duration // see decide
}

func (s *pgxAccounts) withdraw(ctx context.Context, id, amount int64) (int64, error) {
	return pgxlock.Value(ctx, s.locker, accountLocks.ID(id), func(ctx context.Context, tx pgx.Tx) (int64, error) {
		queries := s.queries.WithTx(tx)
		before, err := pgxBalance(ctx, queries, id)
		if err != nil {
			return 0, err
		}
		if err := decide(ctx, s.think, id, before, amount); err != nil {
			return 0, err
		}
		after := before - amount
		return after, queries.SetBalance(ctx, accountsdb.SetBalanceParams{ID: id, Balance: after})
	})
}

func (s *pgxAccounts) balance(ctx context.Context, id int64) (int64, error) {
	return pgxBalance(ctx, s.queries, id)
}

func (s *pgxAccounts) open(ctx context.Context, id, balance int64) error {
	n, err := s.queries.OpenAccount(ctx, accountsdb.OpenAccountParams{ID: id, Balance: balance})
	return opened(id, n, err)
}

func pgxBalance(ctx context.Context, queries *accountsdb.Queries, id int64) (int64, error) {
	balance, err := queries.GetBalance(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("%w: %d", errNoAccount, id)
	}
	return balance, err
}
