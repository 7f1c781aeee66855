package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// This file has stand-ins for libraries that cannot be had as a module from
// every proxy. Each sends the statements of the library one for one, in the
// same transactions, through the same pool as the others.

// goPglock stands in for github.com/allisson/go-pglock/v3: NewLock,
// WaitAndLock, Unlock, Close. Its connection is not lent, so a transaction
// runs on another one.
func goPglock() competitor {
	return competitor{
		name: "go-pglock (stand-in)",
		sends: "stand-in for allisson/go-pglock v3: `db.Conn`, `SELECT pg_advisory_lock($1)`, `SELECT pg_advisory_unlock($1)`: " +
			"no transaction; around an UPDATE `BeginTx` and `Commit` on another connection",
		open: func(_ context.Context, p *place) (locker, error) {
			return stateless(func(ctx context.Context, t turn) error { return goPglockTurn(ctx, p.db, t) }), nil
		},
	}
}

func goPglockTurn(ctx context.Context, db *sql.DB, t turn) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", t.key); err != nil {
		return err
	}
	err = t.beside(ctx, db)
	_, unlockErr := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", t.key)
	return errors.Join(err, unlockErr)
}

// cirelloPglock stands in for cirello.io/pglock: Acquire and Release, with
// heartbeats off, which would come on top.
func cirelloPglock() competitor {
	return competitor{
		name: "cirello pglock (stand-in)",
		sends: "stand-in for cirello.io/pglock without heartbeats, a lease in a table: `nextval`, then `BEGIN` SERIALIZABLE, `INSERT … ON CONFLICT DO UPDATE`, " +
			"`SELECT … FOR UPDATE`, `COMMIT`; to release `BEGIN` SERIALIZABLE, `UPDATE`, `DELETE`, `COMMIT`; " +
			"around an UPDATE `BeginTx` and `Commit` on another connection",
		open: func(_ context.Context, p *place) (locker, error) {
			return stateless(func(ctx context.Context, t turn) error { return cirelloTurn(ctx, p.db, t) }), nil
		},
	}
}

func cirelloTurn(ctx context.Context, db *sql.DB, t turn) error {
	name := fmt.Sprint("bench-", t.key)
	var version int64
	err := serializable(ctx, db, func(ctx context.Context) error {
		return db.QueryRowContext(ctx, "SELECT nextval('locks_rvn')").Scan(&version)
	}, func(ctx context.Context, tx *sql.Tx) error { return cirelloAcquire(ctx, tx, name, version) })
	if err != nil {
		return err
	}
	err = t.beside(ctx, db)
	return errors.Join(err, serializable(ctx, db, nil, func(ctx context.Context, tx *sql.Tx) error {
		return cirelloRelease(ctx, tx, name, version)
	}))
}

func cirelloAcquire(ctx context.Context, tx *sql.Tx, name string, version int64) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO locks ("name", "record_version_number", "data", "owner") VALUES ($1, $2, $3, $6)
		ON CONFLICT ("name") DO UPDATE SET
			"record_version_number" = $2,
			"data" = CASE WHEN $5 THEN $3 ELSE locks."data" END,
			"owner" = $6
		WHERE locks."record_version_number" IS NULL OR locks."record_version_number" = $4`,
		name, version, []byte(nil), 0, false, "pglock-bench")
	if err != nil {
		return err
	}
	var (
		actual int64
		data   []byte
		owner  string
	)
	row := tx.QueryRowContext(ctx, `SELECT "record_version_number", "data", "owner" FROM locks WHERE name = $1 FOR UPDATE`, name)
	if err := row.Scan(&actual, &data, &owner); err != nil {
		return err
	}
	if actual != version {
		return errors.New("the stand-in's lock is taken")
	}
	return nil
}

func cirelloRelease(ctx context.Context, tx *sql.Tx, name string, version int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE locks SET "record_version_number" = NULL WHERE "name" = $1 AND "record_version_number" = $2`, name, version)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM locks WHERE "name" = $1 AND "record_version_number" IS NULL`, name)
	return err
}

// serializable runs before, if there is one, and fn in a SERIALIZABLE
// transaction, both again as often as the library would.
func serializable(ctx context.Context, db *sql.DB, before func(context.Context) error, fn func(context.Context, *sql.Tx) error) error {
	const maxRetries = 1024
	var err error
	for range maxRetries {
		if err = serializableOnce(ctx, db, before, fn); !serializationFailure(err) {
			return err
		}
	}
	return err
}

func serializableOnce(ctx context.Context, db *sql.DB, before func(context.Context) error, fn func(context.Context, *sql.Tx) error) error {
	const lease = 20 * time.Second
	ctx, cancel := context.WithTimeout(ctx, lease)
	defer cancel()
	if before != nil {
		if err := before(ctx); err != nil {
			return err
		}
	}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func serializationFailure(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "40001"
}
