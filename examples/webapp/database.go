package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// dropTimeout bounds the end of a demonstration that was interrupted.
const dropTimeout = 10 * time.Second

// newDatabase creates a database on the server of dsn and returns a style's pool
// on it. drop closes the pool and drops the database, even if ctx has ended.
func newDatabase(ctx context.Context, dsn, style string) (p *pools, drop func() error, err error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, nil, err
	}
	name := "webapp_demo_" + strings.ToLower(rand.Text()[:12])
	if err := execOnce(ctx, config, "create database "+name); err != nil {
		return nil, nil, fmt.Errorf("create a database for the demonstration: %w", err)
	}
	own := config.Copy()
	own.Database = name
	dropDatabase := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
		defer cancel()
		return execOnce(ctx, config, "drop database "+name+" with (force)")
	}
	if p, err = openPools(own, style); err != nil {
		return nil, nil, errors.Join(err, dropDatabase())
	}
	return p, func() error { return errors.Join(p.close(), dropDatabase()) }, nil
}

func execOnce(ctx context.Context, config *pgx.ConnConfig, statement string) (err error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}
