package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A runner runs statements, through database/sql or through pgx.
type runner interface {
	exec(ctx context.Context, query string, args ...any) (rows int64, err error)
	queryRow(ctx context.Context, query string, args ...any) scanner
}

// A scanner is the row of a query: a *sql.Row or a pgx.Row.
type scanner interface {
	Scan(dest ...any) error
}

// A transaction is what a callback works in.
type transaction interface {
	runner
	token(ctx context.Context) (uint64, error)
}

// txFunc is a callback.
type txFunc = func(ctx context.Context, tx transaction) error

// onSQL runs statements on a *sql.DB, a *sql.Conn or a *sql.Tx.
type onSQL struct {
	on interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
}

func (s onSQL) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := s.on.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (s onSQL) queryRow(ctx context.Context, query string, args ...any) scanner {
	return s.on.QueryRowContext(ctx, query, args...)
}

// sqlTx is a *sql.Tx as a transaction.
type sqlTx struct {
	onSQL
	tx *sql.Tx
}

func newSQLTx(tx *sql.Tx) transaction { return sqlTx{onSQL{tx}, tx} }

func (t sqlTx) token(ctx context.Context) (uint64, error) { return xactlock.Token(ctx, t.tx) }

// withSQL is fn as the callback of xactlock.
func withSQL(fn txFunc) xactlock.Func {
	return func(ctx context.Context, tx *sql.Tx) error { return fn(ctx, newSQLTx(tx)) }
}

// onPgx runs statements on a *pgxpool.Pool or a pgx.Tx.
type onPgx struct {
	on interface {
		Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
		QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	}
}

func (s onPgx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := s.on.Exec(ctx, query, args...)
	return tag.RowsAffected(), err
}

func (s onPgx) queryRow(ctx context.Context, query string, args ...any) scanner {
	return s.on.QueryRow(ctx, query, args...)
}

// pgxTx is a pgx.Tx as a transaction.
type pgxTx struct {
	onPgx
	tx pgx.Tx
}

func newPgxTx(tx pgx.Tx) transaction { return pgxTx{onPgx{tx}, tx} }

func (t pgxTx) token(ctx context.Context) (uint64, error) { return pgxlock.Token(ctx, t.tx) }

// withPgx is fn as the callback of pgxlock.
func withPgx(fn txFunc) pgxlock.Func {
	return func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, newPgxTx(tx)) }
}
