package main

import (
	"context"
	"database/sql"
	"errors"
)

// A turn is one acquisition of one lock, what is done under it, and its
// release.
type turn struct {
	worker int // who takes it: less than the place's workers
	key    int64
	update bool         // one UPDATE of the worker's own row, in a transaction
	hold   func() error // called while the lock is held, if not nil
}

// row is the account that the turn's UPDATE is for.
func (t *turn) row() int64 { return int64(t.worker % rows) }

// execer is a *sql.Tx, and what else may run the turn's statement.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// in does the turn's work in a transaction that the competitor has begun.
func (t *turn) in(ctx context.Context, tx execer) error {
	if t.update {
		if _, err := tx.ExecContext(ctx, updateSQL, t.row()); err != nil {
			return err
		}
	}
	if t.hold != nil {
		return t.hold()
	}
	return nil
}

// beginner is a *sql.DB or a *sql.Conn.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// beside does the turn's work under a lock that is not a transaction's: in one
// begun for it, if it has an UPDATE, else in none.
func (t *turn) beside(ctx context.Context, db beginner) error {
	if !t.update {
		return t.in(ctx, nil)
	}
	return t.transaction(ctx, db)
}

// transaction does the turn's work in a transaction of its own.
func (t *turn) transaction(ctx context.Context, db beginner) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := t.in(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// A locker takes turns, for several workers at once.
type locker interface {
	turn(ctx context.Context, t turn) error
	close() error
}

// stateless is a locker that keeps nothing open.
type stateless func(ctx context.Context, t turn) error

func (s stateless) turn(ctx context.Context, t turn) error { return s(ctx, t) }
func (s stateless) close() error                           { return nil }

// A competitor is one way to take turns.
type competitor struct {
	name   string
	module string // whose version belongs in the report; empty where it is all here
	sends  string // for an empty fn, and then around an UPDATE
	open   func(ctx context.Context, p *place) (locker, error)

	updateOnly bool // there is nothing to measure without an UPDATE
}

// The names that verdicts refer to.
const (
	nameBare     = "bare driver"
	nameBytes    = "bare bytes"
	nameOurs     = "pgadvisory WithTx"
	nameOursPoll = "pgadvisory WithTx, Poll 5 ms"
	nameExec     = "pgadvisory Exec"
	nameHand     = "hand-written"
	nameHandTry  = "hand-written try, 5 ms apart"
	nameOursPgx  = "pgxlock WithTx"
	nameHandPgx  = "hand-written, pgxpool"
	nameSession  = "session lock + transaction"
	nameRun      = "golang-migrate, Run"
)

// uncontendedField is who competes for locks that nobody else wants.
func uncontendedField() []competitor {
	return []competitor{
		bareBytes(), bareDriver(), handWritten(), ourWithTx(), handWrittenPgx(), ourPgx(), sessionLock(),
		goose(), golangMigrate(), golangMigrateRun(), goPglock(), cirelloPglock(),
	}
}

// hotField is who competes for one key.
func hotField() []competitor {
	return []competitor{ourWithTx(), ourPoll(), handWritten(), handWrittenTry(), sessionLock()}
}

// execField is who runs one statement under a hot lock.
func execField() []competitor {
	return []competitor{ourExec(), ourWithTx(), handWritten()}
}

// explained is every competitor of the run, once.
func explained() []competitor {
	return append(uncontendedField(), ourExec(), ourPoll(), handWrittenTry())
}
