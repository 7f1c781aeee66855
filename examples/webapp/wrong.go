package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// This file holds two mistakes, for the demonstration to show what they cost.
// Do not copy from it.

// wrongNoLock is WRONG: a transaction alone makes nobody wait. At READ
// COMMITTED two requests read the same balance, both write what they made of
// it, and the second overwrites the first.
type wrongNoLock struct {
	db *sql.DB
}

func (w wrongNoLock) WithTx(ctx context.Context, _ hashkey.Key, fn xactlock.Func) error {
	return inTx(ctx, w.db, fn)
}

// wrongPooledLock is WRONG: it takes a session's lock through a pool of
// sessions. The lock belongs to whichever connection the pool chose for the
// first statement, and the pool chooses another one for the unlock:
//
//   - the unlock returns false, which nobody looks at, and the lock stays on
//     an idle connection, for as long as the pool keeps that open;
//   - whoever happens to get the connection with the lock on it is granted the
//     lock a second time, while the first holder is still at work.
//
// A test with one client passes: database/sql prefers the connection that was
// used last, which is the right one as long as nobody else wants any.
type wrongPooledLock struct {
	db   *sql.DB
	wait time.Duration
}

// pollInterval is how long wrongPooledLock sleeps between two tries.
const pollInterval = 100 * time.Millisecond

func (w wrongPooledLock) WithTx(ctx context.Context, key hashkey.Key, fn xactlock.Func) error {
	if err := w.lock(ctx, key); err != nil {
		return err
	}
	// WRONG: another connection, and the result is ignored.
	defer w.db.ExecContext(ctx, `select pg_advisory_unlock($1)`, key.Int64())
	return inTx(ctx, w.db, fn)
}

// lock tries until the lock is granted or the wait is over.
func (w wrongPooledLock) lock(ctx context.Context, key hashkey.Key) error {
	for deadline := time.Now().Add(w.wait); time.Now().Before(deadline); {
		var granted bool
		err := w.db.QueryRowContext(ctx, `select pg_try_advisory_lock($1)`, key.Int64()).Scan(&granted)
		if granted || err != nil {
			return err
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %v: still held after %v", xactlock.ErrNotAcquired, key, w.wait)
}

// inTx runs fn in a transaction, and commits unless fn returns an error.
func inTx(ctx context.Context, db *sql.DB, fn xactlock.Func) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}
