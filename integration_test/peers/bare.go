package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// bareDriver sends what an uncontended WithTx sends, and does nothing else: it
// is what the library is measured against, and no way to take turns, as it
// neither waits nor minds errors, panics and lost connections.
func bareDriver() competitor {
	return competitor{
		name:   nameBare,
		module: "github.com/jackc/pgx/v5",
		sends:  "the two messages of pgadvisory WithTx, byte for byte, on a pool of `*pgconn.PgConn` without database/sql, and with a context that cannot be cancelled",
		open:   openBare,
	}
}

const (
	bareOpen     = "begin isolation level read committed; select pg_catalog.pg_try_advisory_xact_lock('%d'::bigint); savepoint pgadvisory"
	bareClose    = "release savepoint pgadvisory; commit"
	bareUpdate   = "bench_update"
	bareGranted  = "t"
	int8OID      = 20
	errBareTaken = bareError("the bare driver's lock is taken")
)

type bareError string

func (e bareError) Error() string { return string(e) }

// barePool is a pool of connections without database/sql.
type barePool struct {
	idle chan *pgconn.PgConn
}

func openBare(ctx context.Context, p *place) (locker, error) {
	b := &barePool{idle: make(chan *pgconn.PgConn, p.workers)}
	for range p.workers {
		pg, err := pgconn.ConnectConfig(ctx, &p.config.Config)
		if err != nil {
			return nil, errors.Join(err, b.close())
		}
		b.idle <- pg
		if _, err := pg.Prepare(ctx, bareUpdate, updateSQL, []uint32{int8OID}); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

func (b *barePool) turn(ctx context.Context, t turn) error {
	// pgx watches a context that can be cancelled, once for each message; what is
	// bare does without.
	ctx = context.WithoutCancel(ctx)
	pg := <-b.idle
	defer func() { b.idle <- pg }()
	if err := bareMessage(ctx, pg, fmt.Sprintf(bareOpen, t.key)); err != nil {
		return err
	}
	if t.update {
		id := strconv.AppendInt(nil, t.row(), 10)
		if err := pg.ExecPrepared(ctx, bareUpdate, [][]byte{id}, nil, nil).Read().Err; err != nil {
			return err
		}
	}
	if t.hold != nil {
		if err := t.hold(); err != nil {
			return err
		}
	}
	return bareMessage(ctx, pg, bareClose)
}

// bareMessage sends one message. What it asks, if anything, must be true.
func bareMessage(ctx context.Context, pg *pgconn.PgConn, sql string) error {
	var refused bool
	results := pg.Exec(ctx, sql)
	for results.NextResult() {
		result := results.ResultReader()
		for result.NextRow() {
			refused = string(result.Values()[0]) != bareGranted
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	if refused {
		return errBareTaken
	}
	return nil
}

func (b *barePool) close() error {
	var errs []error
	for range len(b.idle) {
		errs = append(errs, (<-b.idle).Close(context.Background()))
	}
	return errors.Join(errs...)
}
