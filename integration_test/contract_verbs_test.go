package integration_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// verbs is what xactlock and pgxlock both offer, with a pool of its own, so that
// one test of the contract is for both.
type verbs interface {
	With(o xactlock.Options) verbs
	Options() xactlock.Options

	WithTx(ctx context.Context, key hashkey.Key, fn work) error
	TryWithTx(ctx context.Context, key hashkey.Key, fn work) error
	WithTxAll(ctx context.Context, keys []hashkey.Key, fn work) error
	TryWithTxAll(ctx context.Context, keys []hashkey.Key, fn work) error
	WithSlot(ctx context.Context, key hashkey.Key, n int, fn work) error
	TryWithSlot(ctx context.Context, key hashkey.Key, n int, fn work) error
	Value(ctx context.Context, key hashkey.Key, fn func(context.Context, transaction) (int, error)) (int, error)
	TryValue(ctx context.Context, key hashkey.Key, fn func(context.Context, transaction) (int, error)) (int, error)
	Exec(ctx context.Context, key hashkey.Key, query string, args ...any) (int64, error)
	Lock(ctx context.Context, tx transaction, keys ...hashkey.Key) error
	TryLock(ctx context.Context, tx transaction, keys ...hashkey.Key) (bool, error)
	Token(ctx context.Context, tx transaction) (uint64, error)

	// Begin begins a transaction of the caller's own.
	Begin(ctx context.Context, level string) (transaction, error)
	// InUse returns how many connections of the pool are in use.
	InUse() int
}

// work is an fn.
type work = func(ctx context.Context, tx transaction) error

// transaction is a *sql.Tx or a pgx.Tx.
type transaction interface {
	Exec(ctx context.Context, query string, args ...any) error
	Text(ctx context.Context, query string, args ...any) (string, error) // of one row with one text
	Query(ctx context.Context, query string) (rowsOfBoth, error)
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

type rowsOfBoth interface {
	Next() bool
	Err() error
}

// packages are the packages with their pools.
var packages = map[string]func(tb testing.TB, config *pgx.ConnConfig) verbs{
	"xactlock": openSQL(false),
	plain:      openSQL(true),
	"pgxlock": func(tb testing.TB, config *pgx.ConnConfig) verbs {
		pool := openPool(tb, config)
		return pgxVerbs{pgxlock.New(pool), pool}
	},
}

const plain = "xactlock plain"

// openSQL opens a pool of database/sql, for Lockers on the plain path or the other.
func openSQL(plain bool) func(testing.TB, *pgx.ConnConfig) verbs {
	return func(tb testing.TB, config *pgx.ConnConfig) verbs {
		never := stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false })
		db := openConfig(tb, config, never)
		return sqlVerbs{xactlock.New(db), db, plain}.With(xactlock.Options{})
	}
}

// openPool returns a pool of 20 connections that are never tried, and at the end
// of the test checks that none of them is in use.
func openPool(tb testing.TB, conn *pgx.ConnConfig, options ...func(*pgxpool.Config)) *pgxpool.Pool {
	tb.Helper()
	config, err := pgxpool.ParseConfig(conn.ConnString())
	if err != nil {
		tb.Fatal(err)
	}
	config.ConnConfig = conn
	config.MaxConns = 20
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	for _, option := range options {
		option(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		until(tb, "no connection is in use", func() bool { return pool.Stat().AcquiredConns() == 0 })
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(patience):
			tb.Error("the pool cannot be closed")
		}
	})
	return pool
}

type sqlVerbs struct {
	*xactlock.Locker
	db    *sql.DB
	plain bool
}

func (v sqlVerbs) With(o xactlock.Options) verbs {
	o.Plain = v.plain
	return sqlVerbs{v.Locker.With(o), v.db, v.plain}
}

func (v sqlVerbs) fn(fn work) xactlock.Func {
	return func(ctx context.Context, tx *sql.Tx) error { return fn(ctx, sqlTx{tx}) }
}

func (v sqlVerbs) value(fn func(context.Context, transaction) (int, error)) func(context.Context, *sql.Tx) (int, error) {
	return func(ctx context.Context, tx *sql.Tx) (int, error) { return fn(ctx, sqlTx{tx}) }
}

func (v sqlVerbs) WithTx(ctx context.Context, key hashkey.Key, fn work) error {
	return v.Locker.WithTx(ctx, key, v.fn(fn))
}

func (v sqlVerbs) TryWithTx(ctx context.Context, key hashkey.Key, fn work) error {
	return v.Locker.TryWithTx(ctx, key, v.fn(fn))
}

func (v sqlVerbs) WithTxAll(ctx context.Context, keys []hashkey.Key, fn work) error {
	return v.Locker.WithTxAll(ctx, keys, v.fn(fn))
}

func (v sqlVerbs) TryWithTxAll(ctx context.Context, keys []hashkey.Key, fn work) error {
	return v.Locker.TryWithTxAll(ctx, keys, v.fn(fn))
}

func (v sqlVerbs) WithSlot(ctx context.Context, key hashkey.Key, n int, fn work) error {
	return v.Locker.WithSlot(ctx, key, n, v.fn(fn))
}

func (v sqlVerbs) TryWithSlot(ctx context.Context, key hashkey.Key, n int, fn work) error {
	return v.Locker.TryWithSlot(ctx, key, n, v.fn(fn))
}

func (v sqlVerbs) Value(ctx context.Context, key hashkey.Key, fn func(context.Context, transaction) (int, error)) (int, error) {
	return xactlock.Value(ctx, v.Locker, key, v.value(fn))
}

func (v sqlVerbs) TryValue(ctx context.Context, key hashkey.Key, fn func(context.Context, transaction) (int, error)) (int, error) {
	return xactlock.TryValue(ctx, v.Locker, key, v.value(fn))
}

func (v sqlVerbs) Exec(ctx context.Context, key hashkey.Key, query string, args ...any) (int64, error) {
	result, err := v.Locker.Exec(ctx, key, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (v sqlVerbs) Lock(ctx context.Context, tx transaction, keys ...hashkey.Key) error {
	return v.Locker.Lock(ctx, tx.(sqlTx).Tx, keys...)
}

func (v sqlVerbs) TryLock(ctx context.Context, tx transaction, keys ...hashkey.Key) (bool, error) {
	return v.Locker.TryLock(ctx, tx.(sqlTx).Tx, keys...)
}

func (v sqlVerbs) Token(ctx context.Context, tx transaction) (uint64, error) {
	return xactlock.Token(ctx, tx.(sqlTx).Tx)
}

func (v sqlVerbs) Begin(ctx context.Context, level string) (transaction, error) {
	tx, err := v.db.BeginTx(ctx, nil)
	if err == nil {
		_, err = tx.Exec(`set transaction isolation level ` + level)
	}
	return sqlTx{tx}, err
}

func (v sqlVerbs) InUse() int { return v.db.Stats().InUse }

type sqlTx struct{ *sql.Tx }

func (tx sqlTx) Exec(ctx context.Context, query string, args ...any) error {
	_, err := tx.ExecContext(ctx, query, args...)
	return err
}

func (tx sqlTx) Text(ctx context.Context, query string, args ...any) (text string, err error) {
	err = tx.QueryRowContext(ctx, query, args...).Scan(&text)
	return text, err
}

func (tx sqlTx) Query(ctx context.Context, query string) (rowsOfBoth, error) {
	return tx.QueryContext(ctx, query)
}

func (tx sqlTx) Commit(context.Context) error   { return tx.Tx.Commit() }
func (tx sqlTx) Rollback(context.Context) error { return tx.Tx.Rollback() }

type pgxVerbs struct {
	*pgxlock.Locker
	pool *pgxpool.Pool
}

func (v pgxVerbs) With(o xactlock.Options) verbs { return pgxVerbs{v.Locker.With(o), v.pool} }

func (v pgxVerbs) fn(fn work) pgxlock.Func {
	return func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, pgxTx{tx}) }
}

func (v pgxVerbs) value(fn func(context.Context, transaction) (int, error)) func(context.Context, pgx.Tx) (int, error) {
	return func(ctx context.Context, tx pgx.Tx) (int, error) { return fn(ctx, pgxTx{tx}) }
}

func (v pgxVerbs) WithTx(ctx context.Context, key hashkey.Key, fn work) error {
	return v.Locker.WithTx(ctx, key, v.fn(fn))
}

func (v pgxVerbs) TryWithTx(ctx context.Context, key hashkey.Key, fn work) error {
	return v.Locker.TryWithTx(ctx, key, v.fn(fn))
}

func (v pgxVerbs) WithTxAll(ctx context.Context, keys []hashkey.Key, fn work) error {
	return v.Locker.WithTxAll(ctx, keys, v.fn(fn))
}

func (v pgxVerbs) TryWithTxAll(ctx context.Context, keys []hashkey.Key, fn work) error {
	return v.Locker.TryWithTxAll(ctx, keys, v.fn(fn))
}

func (v pgxVerbs) WithSlot(ctx context.Context, key hashkey.Key, n int, fn work) error {
	return v.Locker.WithSlot(ctx, key, n, v.fn(fn))
}

func (v pgxVerbs) TryWithSlot(ctx context.Context, key hashkey.Key, n int, fn work) error {
	return v.Locker.TryWithSlot(ctx, key, n, v.fn(fn))
}

func (v pgxVerbs) Value(ctx context.Context, key hashkey.Key, fn func(context.Context, transaction) (int, error)) (int, error) {
	return pgxlock.Value(ctx, v.Locker, key, v.value(fn))
}

func (v pgxVerbs) TryValue(ctx context.Context, key hashkey.Key, fn func(context.Context, transaction) (int, error)) (int, error) {
	return pgxlock.TryValue(ctx, v.Locker, key, v.value(fn))
}

func (v pgxVerbs) Exec(ctx context.Context, key hashkey.Key, query string, args ...any) (int64, error) {
	tag, err := v.Locker.Exec(ctx, key, query, args...)
	return tag.RowsAffected(), err
}

func (v pgxVerbs) Lock(ctx context.Context, tx transaction, keys ...hashkey.Key) error {
	return v.Locker.Lock(ctx, tx.(pgxTx).Tx, keys...)
}

func (v pgxVerbs) TryLock(ctx context.Context, tx transaction, keys ...hashkey.Key) (bool, error) {
	return v.Locker.TryLock(ctx, tx.(pgxTx).Tx, keys...)
}

func (v pgxVerbs) Token(ctx context.Context, tx transaction) (uint64, error) {
	return pgxlock.Token(ctx, tx.(pgxTx).Tx)
}

func (v pgxVerbs) Begin(ctx context.Context, level string) (transaction, error) {
	tx, err := v.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.TxIsoLevel(level)})
	return pgxTx{tx}, err
}

func (v pgxVerbs) InUse() int { return int(v.pool.Stat().AcquiredConns()) }

type pgxTx struct{ pgx.Tx }

func (tx pgxTx) Exec(ctx context.Context, query string, args ...any) error {
	_, err := tx.Tx.Exec(ctx, query, args...)
	return err
}

func (tx pgxTx) Text(ctx context.Context, query string, args ...any) (text string, err error) {
	err = tx.Tx.QueryRow(ctx, query, args...).Scan(&text)
	return text, err
}

func (tx pgxTx) Query(ctx context.Context, query string) (rowsOfBoth, error) {
	return tx.Tx.Query(ctx, query)
}
