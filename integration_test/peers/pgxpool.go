package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
)

// pooled is a locker on a pool of pgx's own.
type pooled struct {
	pool *pgxpool.Pool
	take func(ctx context.Context, t turn) error
}

func (p pooled) turn(ctx context.Context, t turn) error { return p.take(ctx, t) }

func (p pooled) close() error {
	p.pool.Close()
	return nil
}

// newPooled opens a pool as large as the place's.
func newPooled(ctx context.Context, p *place, take func(pool *pgxpool.Pool) func(context.Context, turn) error) (locker, error) {
	config, err := pgxpool.ParseConfig(p.config.ConnString())
	if err != nil {
		return nil, err
	}
	config.ConnConfig = p.config.Copy()
	config.MaxConns = int32(p.db.Stats().MaxOpenConnections)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return pooled{pool, take(pool)}, nil
}

// pgxTx is a pgx.Tx that runs the turn's statement.
type pgxTx struct{ pgx.Tx }

func (tx pgxTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	_, err := tx.Exec(ctx, query, args...)
	return nil, err // nobody asks for the result
}

func ourPgx() competitor {
	return competitor{
		name:  nameOursPgx,
		sends: "what WithTx sends, on a pgxpool, without database/sql",
		open: func(ctx context.Context, p *place) (locker, error) {
			return newPooled(ctx, p, func(pool *pgxpool.Pool) func(context.Context, turn) error {
				l := pgxlock.New(pool)
				return func(ctx context.Context, t turn) error {
					return l.WithTx(ctx, hashkey.Int64(t.key), func(ctx context.Context, tx pgx.Tx) error {
						return t.in(ctx, pgxTx{tx})
					})
				}
			})
		},
	}
}

// handWrittenPgx is what people write with pgx alone.
func handWrittenPgx() competitor {
	return competitor{
		name:  nameHandPgx,
		sends: "`pool.BeginTx`, `select pg_advisory_xact_lock($1)`, `tx.Commit`, on a pgxpool; an UPDATE is one more",
		open: func(ctx context.Context, p *place) (locker, error) {
			return newPooled(ctx, p, func(pool *pgxpool.Pool) func(context.Context, turn) error {
				return func(ctx context.Context, t turn) error { return handPgxTurn(ctx, pool, t) }
			})
		},
	}
}

func handPgxTurn(ctx context.Context, pool *pgxpool.Pool, t turn) error {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", t.key); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	if err := t.in(ctx, pgxTx{tx}); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}
