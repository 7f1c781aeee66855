package main

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

const schema = `
create table if not exists accounts (
	id      bigint primary key,
	balance bigint not null check (balance >= 0) -- in cents
);
create table if not exists reports (
	account    bigint primary key references accounts,
	balance    bigint not null,
	written_at timestamptz not null
);`

var schemaLock = hashkey.Name("webapp schema")

// createSchema creates the tables that are missing. It takes a lock because
// "if not exists" is no protection: of two replicas that start at once, both
// find no table, and one fails with a unique violation in the catalog.
func createSchema(ctx context.Context, locker *xactlock.Locker) error {
	err := locker.WithTx(ctx, schemaLock, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("create the schema: %w", err)
	}
	return nil
}
