package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/pgadvisory/pgadvisory/xactlock"
)

// bunAccounts is an accountStore on bun.
type bunAccounts struct {
	db     *bun.DB
	locker *xactlock.Locker
	think  time.Duration // see decide
}

// account is a row.
type account struct {
	bun.BaseModel `bun:"table:accounts"`
	ID            int64 `bun:"id,pk"`
	Balance       int64
}

func (s *bunAccounts) withdraw(ctx context.Context, id, amount int64) (int64, error) {
	return xactlock.Value(ctx, s.locker, accountLocks.ID(id), func(ctx context.Context, tx *sql.Tx) (int64, error) {
		a, err := s.read(ctx, tx, id)
		if err != nil {
			return 0, err
		}
		if err := decide(ctx, s.think, id, a.Balance, amount); err != nil {
			return 0, err
		}
		a.Balance -= amount
		_, err = s.db.NewUpdate().Conn(tx).Model(a).WherePK().Exec(ctx)
		return a.Balance, err
	})
}

func (s *bunAccounts) balance(ctx context.Context, id int64) (int64, error) {
	a, err := s.read(ctx, s.db, id)
	if err != nil {
		return 0, err
	}
	return a.Balance, nil
}

func (s *bunAccounts) open(ctx context.Context, id, balance int64) error {
	result, err := s.db.NewInsert().Model(&account{ID: id, Balance: balance}).On("conflict do nothing").Exec(ctx)
	return openedRows(id, result, err)
}

// read reads an account through on, a transaction or the pool.
func (s *bunAccounts) read(ctx context.Context, on bun.IConn, id int64) (*account, error) {
	a := &account{ID: id}
	err := s.db.NewSelect().Conn(on).Model(a).WherePK().Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %d", errNoAccount, id)
	}
	return a, err
}
