// Package ent has the shape of what ent generates from a schema Account with one
// field, balance, as far as a test needs it: calls of sqlgraph on a driver. It is
// kept by hand.
package ent

import (
	"context"
	"database/sql"
	"fmt"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/sqlgraph"
	"entgo.io/ent/schema/field"
)

// Client is what queries go through.
type Client struct{ Account *AccountClient }

// NewClient returns a client on a driver.
func NewClient(o Option) *Client { return &Client{&AccountClient{dialect.Driver(o)}} }

// Option is what NewClient takes.
type Option dialect.Driver

// Driver is the option of the driver.
func Driver(d dialect.Driver) Option { return Option(d) }

// Account is a row.
type Account struct {
	ID      int64
	Balance int64
}

// AccountClient is what queries of accounts go through.
type AccountClient struct{ driver dialect.Driver }

var columns = []string{"id", "balance"}

func id() *sqlgraph.FieldSpec { return sqlgraph.NewFieldSpec("id", field.TypeInt64) }

func (a *Account) scanValues([]string) ([]any, error) {
	return []any{new(sql.NullInt64), new(sql.NullInt64)}, nil
}

func (a *Account) assign(_ []string, values []any) error {
	a.ID, a.Balance = values[0].(*sql.NullInt64).Int64, values[1].(*sql.NullInt64).Int64
	return nil
}

// Get returns an account.
func (c *AccountClient) Get(ctx context.Context, accountID int64) (*Account, error) {
	var a *Account
	spec := sqlgraph.NewQuerySpec("accounts", columns, id())
	spec.Predicate = func(s *entsql.Selector) { s.Where(entsql.EQ("id", accountID)) }
	spec.ScanValues = (&Account{}).scanValues
	spec.Assign = func(columns []string, values []any) error {
		a = &Account{}
		return a.assign(columns, values)
	}
	if err := sqlgraph.QueryNodes(ctx, c.driver, spec); err != nil {
		return nil, err
	}
	if a == nil {
		return nil, fmt.Errorf("ent: account not found")
	}
	return a, nil
}

// UpdateOneID begins an update.
func (c *AccountClient) UpdateOneID(accountID int64) *AccountUpdateOne {
	return &AccountUpdateOne{driver: c.driver, id: accountID}
}

// AccountUpdateOne is an update.
type AccountUpdateOne struct {
	driver      dialect.Driver
	id, balance int64
}

// SetBalance says what to write.
func (u *AccountUpdateOne) SetBalance(balance int64) *AccountUpdateOne {
	u.balance = balance
	return u
}

// Exec writes it, in a transaction of the driver's.
func (u *AccountUpdateOne) Exec(ctx context.Context) error {
	spec := sqlgraph.NewUpdateSpec("accounts", columns, id())
	spec.Node.ID.Value = u.id
	spec.SetField("balance", field.TypeInt64, u.balance)
	var updated Account
	spec.ScanValues, spec.Assign = updated.scanValues, updated.assign
	return sqlgraph.UpdateNode(ctx, u.driver, spec)
}
