package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// locks is what the workers lock with: the library, or one of the broken
// imitations that the checks are tried on.
type locks interface {
	// transaction runs fn under the locks of c, in a transaction that holds
	// them. Its errors are those of xactlock.
	transaction(ctx context.Context, p *pool, c *call, fn txFunc) error

	// exec runs one statement under the lock of c, and returns how many rows it
	// says it wrote.
	exec(ctx context.Context, p *pool, c *call, query string, args ...any) (rows int64, err error)

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

// A pool is one of a worker's: a *sql.DB, and beside it pgx's own to the same
// server, with as many connections.
type pool struct {
	db           *sql.DB
	transactions *xactlock.Locker
	sessions     *sessionlock.Locker

	pgx             *pgxpool.Pool
	pgxTransactions *pgxlock.Locker
}

// openPool opens a pool of up to size connections of either kind. It connects
// when a call needs it to.
func openPool(dsn string, size int) (*pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*config.ConnConfig)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	config.MaxConns = int32(size)
	pool := &pool{db: db, transactions: xactlock.New(db), sessions: sessionlock.New(db)}
	if pool.pgx, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	pool.pgxTransactions = pgxlock.New(pool.pgx)
	return pool, nil
}

// runner is what a call without a lock asks.
func (p *pool) runner(c *call) runner {
	if c.Pgx {
		return onPgx{p.pgx}
	}
	return onSQL{p.db}
}

// library is what is checked.
type library struct{}

func (library) transaction(ctx context.Context, p *pool, c *call, fn txFunc) (err error) {
	seen := observation{panicked: true}
	defer func() { c.observed(&seen, err) }()
	if c.Pgx {
		err = inPgx(ctx, p, c, seen.options(c), seen.around(fn))
	} else {
		err = inSQL(ctx, p, c, seen.options(c), seen.around(fn))
	}
	seen.panicked = false
	return err
}

// inSQL makes the call c of xactlock.
func inSQL(ctx context.Context, p *pool, c *call, o xactlock.Options, run txFunc) error {
	l, fn := p.transactions.With(o), withSQL(run)
	switch {
	case c.Verb == "WithTxOf":
		begin := func(ctx context.Context) (*sql.Tx, error) { return p.db.BeginTx(ctx, nil) }
		return xactlock.WithTxOf(ctx, l, keyOf(c.Keys[0]), begin, fn)
	case c.own():
		tx, err := p.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		lock := func() error { return lockOwn(ctx, l, c, xactlock.Tx(tx)) }
		return inOwnTransaction(lock, func() error { return fn(ctx, tx) }, tx.Commit, tx.Rollback)
	}
	return lockWith(ctx, l, c, fn)
}

// inPgx makes the call c of pgxlock.
func inPgx(ctx context.Context, p *pool, c *call, o pgxlock.Options, run txFunc) error {
	l, fn := p.pgxTransactions.With(o), withPgx(run)
	if !c.own() {
		return lockWith(ctx, l, c, fn)
	}
	tx, err := p.pgx.Begin(ctx)
	if err != nil {
		return err
	}
	lock := func() error { return lockOwn(ctx, l, c, tx) }
	return inOwnTransaction(lock, func() error { return fn(ctx, tx) },
		func() error { return tx.Commit(ctx) }, func() error { return tx.Rollback(ctx) })
}

// A locker is the Locker of xactlock or of pgxlock, whose callbacks are of type F
// and whose callers' own transactions are of type T.
type locker[F, T any] interface {
	WithTx(ctx context.Context, key hashkey.Key, fn F) error
	TryWithTx(ctx context.Context, key hashkey.Key, fn F) error
	WithTxAll(ctx context.Context, keys []hashkey.Key, fn F) error
	TryWithTxAll(ctx context.Context, keys []hashkey.Key, fn F) error
	WithSlot(ctx context.Context, key hashkey.Key, n int, fn F) error
	TryWithSlot(ctx context.Context, key hashkey.Key, n int, fn F) error
	Lock(ctx context.Context, tx T, keys ...hashkey.Key) error
	TryLock(ctx context.Context, tx T, keys ...hashkey.Key) (bool, error)
}

// lockWith makes the call c of a verb that both packages have, and that begins
// the transaction.
func lockWith[F, T any](ctx context.Context, l locker[F, T], c *call, fn F) error {
	keys := keysOf(c.Keys)
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
	}
	return fmt.Errorf("there is no verb %q", c.name())
}

// lockOwn takes the locks of c in a transaction of the caller's own.
func lockOwn[F, T any](ctx context.Context, l locker[F, T], c *call, tx T) error {
	if c.try() {
		return granted(l.TryLock(ctx, tx, keysOf(c.Keys)...))
	}
	return l.Lock(ctx, tx, keysOf(c.Keys)...)
}

// granted is what a TryLock returned, as an error.
func granted(ok bool, err error) error {
	if err == nil && !ok {
		err = xactlock.ErrNotAcquired
	}
	return err
}

// inOwnTransaction runs fn in a transaction of the caller's own, once lock has
// locked in it. The error of its COMMIT is ErrCommitUnknown unless the server
// has refused it.
func inOwnTransaction(lock, fn, commit, rollback func() error) (err error) {
	defer func() {
		over := rollback()
		if err == nil && !errors.Is(over, sql.ErrTxDone) && !errors.Is(over, pgx.ErrTxClosed) {
			err = over
		}
	}()
	if err := lock(); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	err = commit()
	if answer := new(pgconn.PgError); err != nil && !(errors.As(err, &answer) && answer.Severity == "ERROR" && answer.Code[:2] == "40") {
		err = fmt.Errorf("%w: %w", xactlock.ErrCommitUnknown, err)
	}
	return err
}

func (library) exec(ctx context.Context, p *pool, c *call, query string, args ...any) (rows int64, err error) {
	var seen observation
	defer func() { c.observed(&seen, err) }()
	if c.Pgx {
		tag, err := p.pgxTransactions.With(seen.options(c)).Exec(ctx, keyOf(c.Keys[0]), query, args...)
		return tag.RowsAffected(), err
	}
	result, err := p.transactions.With(seen.options(c)).Exec(ctx, keyOf(c.Keys[0]), query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (library) session(ctx context.Context, p *pool, c *call, fn sessionFunc) error {
	l, key := p.sessions.With(c.sessionOptions()), keyOf(c.Keys[0])
	switch c.Verb {
	case "session Lock", "session Shareable":
		k, err := l.Lock(ctx, key)
		return untilUnlock(ctx, k, err, fn)
	case "session TryLock":
		k, err := l.TryLock(ctx, key)
		return untilUnlock(ctx, k, err, fn)
	case "session WithLock":
		return l.WithLock(ctx, key, withSession(fn))
	case "session TryWithLock":
		return l.TryWithLock(ctx, key, withSession(fn))
	case "session WithSlot":
		return l.WithSlot(ctx, key, slotsOf, withSession(fn))
	case "session TryWithSlot":
		return l.TryWithSlot(ctx, key, slotsOf, withSession(fn))
	case "session Lead":
		return l.Lead(ctx, key, func(ctx context.Context) error { return fn(ctx, sessionlock.FromContext(ctx)) })
	}
	return fmt.Errorf("there is no verb %q", c.Verb)
}

// withSession is fn as the callback of sessionlock.
func withSession(fn sessionFunc) func(context.Context, *sql.Conn) error {
	return func(ctx context.Context, _ *sql.Conn) error { return fn(ctx, sessionlock.FromContext(ctx)) }
}

// untilUnlock runs fn with a lock, if there is one, and gives it back.
func untilUnlock(ctx context.Context, k *sessionlock.Lock, err error, fn sessionFunc) error {
	if err != nil {
		return err
	}
	err = fn(ctx, k)
	return errors.Join(err, k.Unlock())
}
