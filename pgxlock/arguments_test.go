package pgxlock_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// key is what is asked for.
var key = hashkey.Name("k")

// forms are all the ways to ask for a lock, with the fn that they call.
var forms = map[string]func(context.Context, *pgxlock.Locker, pgxlock.Func) error{
	"WithTx": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error { return l.WithTx(ctx, key, fn) },
	"TryWithTx": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		return l.TryWithTx(ctx, key, fn)
	},
	"WithTxAll": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		return l.WithTxAll(ctx, []hashkey.Key{key}, fn)
	},
	"TryWithTxAll": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		return l.TryWithTxAll(ctx, []hashkey.Key{key}, fn)
	},
	"WithSlot": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		return l.WithSlot(ctx, key, 2, fn)
	},
	"TryWithSlot": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		return l.TryWithSlot(ctx, key, 2, fn)
	},
	"Value": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		_, err := pgxlock.Value(ctx, l, key, result(fn))
		return err
	},
	"TryValue": func(ctx context.Context, l *pgxlock.Locker, fn pgxlock.Func) error {
		_, err := pgxlock.TryValue(ctx, l, key, result(fn))
		return err
	},
}

func result(fn pgxlock.Func) func(context.Context, pgx.Tx) (int, error) {
	if fn == nil {
		return nil
	}
	return func(ctx context.Context, tx pgx.Tx) (int, error) { return 0, fn(ctx, tx) }
}

// onTx are the ways to ask for a lock in a transaction of the caller's own.
var onTx = map[string]func(*pgxlock.Locker, pgx.Tx, ...hashkey.Key) error{
	"Lock": func(l *pgxlock.Locker, tx pgx.Tx, keys ...hashkey.Key) error {
		return l.Lock(context.Background(), tx, keys...)
	},
	"TryLock": func(l *pgxlock.Locker, tx pgx.Tx, keys ...hashkey.Key) error {
		_, err := l.TryLock(context.Background(), tx, keys...)
		return err
	},
}

// someTx is a transaction that nothing may be asked of.
type someTx struct{ pgx.Tx }

func unreachable(t *testing.T) pgxlock.Func {
	return func(context.Context, pgx.Tx) error {
		t.Error("fn ran")
		return nil
	}
}

// refuses checks that err is an error that says what is wrong.
func refuses(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), "pgxlock: ") || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want an error of pgxlock that says %q", err, says)
	}
}

// unconnected is a pool without a server.
func unconnected(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?sslmode=disable&pool_max_conns=3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// A nil pool, nil fn, nil tx or no keys are errors, not panics; no server is
// asked.
func TestMissingArguments(t *testing.T) {
	l := pgxlock.New(unconnected(t))
	for name, call := range forms {
		t.Run(name, func(t *testing.T) {
			for _, l := range []*pgxlock.Locker{pgxlock.New(nil), pgxlock.New(nil).With(pgxlock.Options{Shared: true})} {
				refuses(t, call(t.Context(), l, unreachable(t)), "nil *pgxpool.Pool")
			}
			refuses(t, call(t.Context(), l, nil), "fn is nil")
		})
	}
	for name, call := range onTx {
		t.Run(name, func(t *testing.T) {
			refuses(t, call(l, nil, key), "tx is nil")
			refuses(t, call(l, (*pgxpool.Tx)(nil), key), "tx is nil")
			refuses(t, call(l, someTx{}), "no keys")
		})
	}
	refuses(t, l.WithTxAll(t.Context(), nil, unreachable(t)), "no keys")
	refuses(t, l.WithSlot(t.Context(), key, 0, unreachable(t)), "0 slots")
	_, err := pgxlock.Token(t.Context(), nil)
	refuses(t, err, "tx is nil")
}

// A Locker that New did not make is an error, not a panic.
func TestNoLocker(t *testing.T) {
	for _, l := range []*pgxlock.Locker{nil, {}, (*pgxlock.Locker)(nil).With(pgxlock.Options{}), new(pgxlock.Locker).With(pgxlock.Options{})} {
		for _, call := range forms {
			refuses(t, call(t.Context(), l, unreachable(t)), "nil or zero")
		}
		for _, call := range onTx {
			refuses(t, call(l, someTx{}, key), "nil or zero")
		}
		_, err := l.Exec(t.Context(), key, "select 1")
		refuses(t, err, "nil or zero")
		_ = l.Options()
	}
}

// A bad option is an error on first use that names the field, and so is Plain,
// which is about database/sql. RequirePgx is not.
func TestBadOptions(t *testing.T) {
	l := pgxlock.New(unconnected(t))
	for field, o := range map[string]pgxlock.Options{
		"Wait":       {Wait: -1},
		"Poll":       {Poll: -time.Second},
		"MaxHold":    {MaxHold: -time.Nanosecond},
		"Grace":      {Grace: -1},
		"MaxWaiters": {MaxWaiters: -1},
		"Isolation":  {Isolation: sql.LevelLinearizable},
		"Plain":      {Plain: true, RequirePgx: true},
	} {
		for _, call := range forms {
			refuses(t, call(t.Context(), l.With(o), unreachable(t)), "Options."+field)
		}
		for _, call := range onTx {
			refuses(t, call(l.With(o), someTx{}, key), "Options."+field)
		}
	}
	if o := l.With(pgxlock.Options{Shared: true}).With(pgxlock.Options{Poll: 7}).Options(); o.Shared || o.Poll != 7 {
		t.Errorf("With gives %+v", o)
	}
}

// Without a server, every call says so, with pgx's error and its own name; with a
// ctx that has ended, it is ErrNotAcquired.
func TestNoServer(t *testing.T) {
	l := pgxlock.New(unconnected(t)).With(pgxlock.Options{RequirePgx: true})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range forms {
		t.Run(name, func(t *testing.T) {
			err := call(t.Context(), l, unreachable(t))
			refuses(t, err, "failed to connect")
			if errors.Is(err, pgxlock.ErrNotAcquired) {
				t.Errorf("got %v", err)
			}
			if err := call(ended, l, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want ErrNotAcquired", err)
			}
		})
	}
}
