package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// bareDriver sends what an uncontended WithTx sends, and does nothing else: it
// is what the library is measured against, and no way to take turns, as it
// neither waits nor minds panics and lost connections.
func bareDriver() competitor {
	return competitor{
		name:   nameBare,
		module: "github.com/jackc/pgx/v5",
		sends:  "the two messages of pgadvisory WithTx, on a pool of `*pgconn.PgConn` without database/sql: by `ExecBatch` of prepared statements, which has each described once more",
		open: func(ctx context.Context, p *place) (locker, error) {
			return openBare(ctx, p, bareMessages{batchOpening, batchClosing})
		},
	}
}

// bareBytes is stricter: not even the driver's own calls are made.
func bareBytes() competitor {
	return competitor{
		name:  nameBytes,
		sends: "the same two messages, byte for byte those of pgadvisory WithTx, put together by hand, read without pgconn's help, and without a context",
		open: func(ctx context.Context, p *place) (locker, error) {
			return openBare(ctx, p, bareMessages{writtenOpening, writtenClosing})
		},
	}
}

// bareMessages is how the two messages are sent.
type bareMessages struct {
	opening func(ctx context.Context, pg *pgconn.PgConn, key int64) error
	closing func(ctx context.Context, pg *pgconn.PgConn) error
}

// The statements are prepared under the names that WithTx gives them: their text, a hash
// of it where it is long, and COMMIT's.
const (
	bareBegin     = "begin isolation level read committed"
	bareLock      = "pgadvisory 690ca39c3174ba10"
	bareLockSQL   = "select pg_catalog.pg_try_advisory_xact_lock($1) where not pg_catalog.pg_is_in_recovery()"
	bareSavepoint = "savepoint pgadvisory"
	bareRelease   = "release savepoint pgadvisory"
	bareCommit    = "pgadvisory commit"
	bareUpdate    = "bench_update"
	bareGranted   = "t"
	errBareTaken  = bareError("the bare driver's lock is taken")
)

type bareError string

func (e bareError) Error() string { return string(e) }

// barePool is a pool of connections without database/sql.
type barePool struct {
	bareMessages
	idle chan *pgconn.PgConn
}

func openBare(ctx context.Context, p *place, m bareMessages) (locker, error) {
	b := &barePool{m, make(chan *pgconn.PgConn, p.workers)}
	for range p.workers {
		pg, err := pgconn.ConnectConfig(ctx, &p.config.Config)
		if err != nil {
			return nil, errors.Join(err, b.close())
		}
		b.idle <- pg
		for name, sql := range map[string]string{bareBegin: bareBegin, bareLock: bareLockSQL, bareSavepoint: bareSavepoint, bareRelease: bareRelease, bareCommit: "commit", bareUpdate: updateSQL} {
			if _, err := pg.Prepare(ctx, name, sql, nil); err != nil {
				return nil, errors.Join(err, b.close())
			}
		}
	}
	return b, nil
}

func (b *barePool) turn(ctx context.Context, t turn) error {
	pg := <-b.idle
	defer func() { b.idle <- pg }()
	if err := b.opening(ctx, pg, t.key); err != nil {
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
	return b.closing(ctx, pg)
}

func batchOpening(ctx context.Context, pg *pgconn.PgConn, key int64) error {
	var batch pgconn.Batch
	batch.ExecPrepared(bareBegin, nil, nil, nil)
	batch.ExecPrepared(bareLock, [][]byte{strconv.AppendInt(nil, key, 10)}, nil, nil)
	batch.ExecPrepared(bareSavepoint, nil, nil, nil)
	results := pg.ExecBatch(ctx, &batch)
	var failed error
	for results.NextResult() {
		for rows := results.ResultReader(); rows.NextRow(); {
			if string(rows.Values()[0]) != bareGranted {
				failed = errBareTaken
			}
		}
	}
	return errors.Join(results.Close(), failed)
}

func batchClosing(ctx context.Context, pg *pgconn.PgConn) error {
	var batch pgconn.Batch
	batch.ExecPrepared(bareRelease, nil, nil, nil)
	batch.ExecPrepared(bareCommit, nil, nil, nil)
	return pg.ExecBatch(ctx, &batch).Close()
}

func writtenOpening(_ context.Context, pg *pgconn.PgConn, key int64) error {
	f := pg.Frontend()
	f.SendBind(&pgproto3.Bind{PreparedStatement: bareBegin})
	f.SendExecute(&pgproto3.Execute{})
	f.SendBind(&pgproto3.Bind{PreparedStatement: bareLock, Parameters: [][]byte{strconv.AppendInt(nil, key, 10)}})
	f.SendExecute(&pgproto3.Execute{})
	f.SendBind(&pgproto3.Bind{PreparedStatement: bareSavepoint})
	f.SendExecute(&pgproto3.Execute{})
	f.SendSync(&pgproto3.Sync{})
	return bareExchange(pg)
}

func writtenClosing(_ context.Context, pg *pgconn.PgConn) error {
	f := pg.Frontend()
	f.SendBind(&pgproto3.Bind{PreparedStatement: bareRelease})
	f.SendExecute(&pgproto3.Execute{})
	f.SendBind(&pgproto3.Bind{PreparedStatement: bareCommit})
	f.SendExecute(&pgproto3.Execute{})
	f.SendSync(&pgproto3.Sync{})
	return bareExchange(pg)
}

// bareExchange sends one message and reads the answer. What it asks, if
// anything, must be true.
func bareExchange(pg *pgconn.PgConn) error {
	if err := pg.Frontend().Flush(); err != nil {
		return err
	}
	var failed error
	for {
		message, err := pg.ReceiveMessage(context.Background())
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			if string(m.Values[0]) != bareGranted {
				failed = errBareTaken
			}
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}

func (b *barePool) close() error {
	var errs []error
	for range len(b.idle) {
		errs = append(errs, (<-b.idle).Close(context.Background()))
	}
	return errors.Join(errs...)
}
