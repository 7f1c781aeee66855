package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// poolSize is how many connections the service has for all its requests.
const poolSize = 10

// pools is the pool that all requests share.
type pools struct {
	db  *sql.DB
	pgx *pgxpool.Pool // beneath db, in the style pgx; nil in the others
}

// openPools opens the pool of a style. It does not connect.
func openPools(config *pgx.ConnConfig, style string) (*pools, error) {
	if style != "pgx" {
		db := stdlib.OpenDB(*config)
		db.SetMaxOpenConns(poolSize)
		db.SetMaxIdleConns(poolSize) // the default of 2 would close and dial all day
		return &pools{db: db}, nil
	}
	poolConfig, err := pgxpool.ParseConfig(config.ConnString())
	if err != nil {
		return nil, err
	}
	poolConfig.ConnConfig = config
	poolConfig.MaxConns = poolSize
	pool, err := pgxpool.NewWithConfig(context.Background(), poolConfig)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDBFromPool(pool) // the pgxpool keeps what is idle
	db.SetMaxOpenConns(poolSize)
	return &pools{db, pool}, nil
}

func (p *pools) close() error {
	err := p.db.Close()
	if p.pgx != nil {
		p.pgx.Close()
	}
	return err
}
