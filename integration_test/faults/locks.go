package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// locks is what the workers lock with: the library, or one of the broken
// imitations that the checks are tried on.
type locks interface {
	// transaction runs fn under the locks of c, in a transaction that holds
	// them. Its errors are those of xactlock.
	transaction(ctx context.Context, p *pool, c *call, fn xactlock.Func) error

	// exec runs one statement under the lock of c.
	exec(ctx context.Context, p *pool, c *call, query string, args ...any) (sql.Result, error)

	// session runs fn under the lock of c, which a session holds. nil means that
	// the lock was held until fn returned.
	session(ctx context.Context, p *pool, c *call, fn sessionFunc) error
}

type sessionFunc = func(ctx context.Context, k held) error

// held is a lock of a session.
type held interface {
	Conn() *sql.Conn
	Token(ctx context.Context) (uint64, error)
}

// A pool is one of a worker's.
type pool struct {
	db           *sql.DB
	transactions *xactlock.Locker
	sessions     *sessionlock.Locker
}

func newPool(db *sql.DB) *pool {
	return &pool{db: db, transactions: xactlock.New(db), sessions: sessionlock.New(db)}
}

// library is what is checked.
type library struct{}

func (library) transaction(ctx context.Context, p *pool, c *call, fn xactlock.Func) error {
	l, keys := p.transactions.With(c.transactionOptions()), keysOf(c.Keys)
	switch c.Verb {
	case "WithTx":
		return l.WithTx(ctx, keys[0], fn)
	case "TryWithTx":
		return l.TryWithTx(ctx, keys[0], fn)
	case "WithTxAll":
		return l.WithTxAll(ctx, keys, fn)
	case "TryWithTxAll":
		return l.TryWithTxAll(ctx, keys, fn)
	case "WithSlot":
		return l.WithSlot(ctx, keys[0], slotsOf, fn)
	case "TryWithSlot":
		return l.TryWithSlot(ctx, keys[0], slotsOf, fn)
	case "Lock":
		return inOwnTransaction(ctx, p, func(tx *sql.Tx) error { return l.Lock(ctx, tx, keys...) }, fn)
	case "TryLock":
		return inOwnTransaction(ctx, p, func(tx *sql.Tx) error { return tryLock(ctx, l, tx, c) }, fn)
	}
	return fmt.Errorf("there is no verb %q", c.Verb)
}

func tryLock(ctx context.Context, l *xactlock.Locker, tx *sql.Tx, c *call) error {
	ok, err := l.TryLock(ctx, tx, keysOf(c.Keys)...)
	if err == nil && !ok {
		err = xactlock.ErrNotAcquired
	}
	return err
}

// inOwnTransaction runs fn in a transaction of the caller's own, once lock has
// locked in it. The error of its COMMIT is ErrCommitUnknown unless the server
// has refused it.
func inOwnTransaction(ctx context.Context, p *pool, lock func(*sql.Tx) error, fn xactlock.Func) (err error) {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if rollback := tx.Rollback(); err == nil && !errors.Is(rollback, sql.ErrTxDone) {
			err = rollback
		}
	}()
	if err := lock(tx); err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		return err
	}
	err = tx.Commit()
	if answer := new(pgconn.PgError); err != nil && !(errors.As(err, &answer) && answer.Severity == "ERROR" && answer.Code[:2] == "40") {
		err = fmt.Errorf("%w: %w", xactlock.ErrCommitUnknown, err)
	}
	return err
}

func (library) exec(ctx context.Context, p *pool, c *call, query string, args ...any) (sql.Result, error) {
	return p.transactions.With(c.transactionOptions()).Exec(ctx, keyOf(c.Keys[0]), query, args...)
}

func (library) session(ctx context.Context, p *pool, c *call, fn sessionFunc) error {
	l, key := p.sessions.With(c.sessionOptions()), keyOf(c.Keys[0])
	withConn := func(ctx context.Context, _ *sql.Conn) error { return fn(ctx, sessionlock.FromContext(ctx)) }
	switch c.Verb {
	case "session Lock", "session Shareable":
		k, err := l.Lock(ctx, key)
		return untilUnlock(ctx, k, err, fn)
	case "session TryLock":
		k, err := l.TryLock(ctx, key)
		return untilUnlock(ctx, k, err, fn)
	case "session WithLock":
		return l.WithLock(ctx, key, withConn)
	case "session TryWithLock":
		return l.TryWithLock(ctx, key, withConn)
	case "session WithSlot":
		return l.WithSlot(ctx, key, slotsOf, withConn)
	case "session TryWithSlot":
		return l.TryWithSlot(ctx, key, slotsOf, withConn)
	case "session Lead":
		return l.Lead(ctx, key, func(ctx context.Context) error { return fn(ctx, sessionlock.FromContext(ctx)) })
	}
	return fmt.Errorf("there is no verb %q", c.Verb)
}

// untilUnlock runs fn with a lock, if there is one, and gives it back.
func untilUnlock(ctx context.Context, k *sessionlock.Lock, err error, fn sessionFunc) error {
	if err != nil {
		return err
	}
	err = fn(ctx, k)
	return errors.Join(err, k.Unlock())
}
