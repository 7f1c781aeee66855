package main

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// handWritten is what people write.
func handWritten() competitor {
	return competitor{
		name:  nameHand,
		sends: "`db.BeginTx`, `select pg_advisory_xact_lock($1)`, `tx.Commit`; an UPDATE is one more",
		open: func(_ context.Context, p *place) (locker, error) {
			return stateless(func(ctx context.Context, t turn) error { return handTurn(ctx, p.db, t) }), nil
		},
	}
}

func handTurn(ctx context.Context, db *sql.DB, t turn) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "select pg_advisory_xact_lock($1)", t.key); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := t.in(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// handWrittenTry is what people write when they have seen their pool wait.
func handWrittenTry() competitor {
	return competitor{
		name:  nameHandTry,
		sends: "`db.BeginTx`, `select pg_try_advisory_xact_lock($1)`, `tx.Commit`; after a refusal `tx.Rollback` and 5 ms without a connection",
		open: func(_ context.Context, p *place) (locker, error) {
			return stateless(func(ctx context.Context, t turn) error {
				for {
					done, err := tryTurn(ctx, p.db, t)
					if done || err != nil {
						return err
					}
					if err := sleep(ctx, pollInterval); err != nil {
						return err
					}
				}
			}), nil
		},
	}
}

func tryTurn(ctx context.Context, db *sql.DB, t turn) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	var granted bool
	err = tx.QueryRowContext(ctx, "select pg_try_advisory_xact_lock($1)", t.key).Scan(&granted)
	if err == nil && granted {
		err = t.in(ctx, tx)
	}
	if err != nil {
		return false, errors.Join(err, tx.Rollback())
	}
	if !granted {
		return false, tx.Rollback()
	}
	return true, tx.Commit()
}

// sleep is for those who poll, and as coarse as theirs.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sessionLock holds a session's lock around a transaction, on one connection.
func sessionLock() competitor {
	return competitor{
		name: nameSession,
		sends: "`db.Conn`, `select pg_advisory_lock($1)`, `BeginTx`, `Commit` and `select pg_advisory_unlock($1)` there; " +
			"an UPDATE is one more",
		open: func(_ context.Context, p *place) (locker, error) {
			return stateless(func(ctx context.Context, t turn) error { return sessionTurn(ctx, p.db, t) }), nil
		},
	}
}

func sessionTurn(ctx context.Context, db *sql.DB, t turn) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "select pg_advisory_lock($1)", t.key); err != nil {
		return err
	}
	err = t.transaction(ctx, conn)
	// The lock would stay in the pool if this were skipped: so not with ctx,
	// which may have ended. The connection may be gone, and the lock with it.
	_, unlockErr := conn.ExecContext(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", t.key)
	return errors.Join(err, unlockErr)
}
