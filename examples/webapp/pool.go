package main

import (
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// poolSize is how many connections the service has for all its requests.
const poolSize = 10

// openPool returns the pool that all requests share. It does not connect.
func openPool(dsn string) (*sql.DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return newPool(config), nil
}

func newPool(config *pgx.ConnConfig) *sql.DB {
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(poolSize)
	db.SetMaxIdleConns(poolSize) // the default of 2 would close and dial all day
	return db
}
