// Package schema is what the package ent above it is generated from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
)

// Account is a row of accounts, the table of the guide's tests.
type Account struct{ ent.Schema }

// Fields are the columns.
func (Account) Fields() []ent.Field {
	return []ent.Field{field.Int64("id"), field.Int64("balance")}
}
