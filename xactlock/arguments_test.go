package xactlock_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// forms are all the ways to ask for a lock.
var forms = map[string]func(*xactlock.Locker, xactlock.Func) error{
	"WithTx": func(l *xactlock.Locker, fn xactlock.Func) error {
		return l.WithTx(context.Background(), hashkey.Name("k"), fn)
	},
	"TryWithTx": func(l *xactlock.Locker, fn xactlock.Func) error {
		return l.TryWithTx(context.Background(), hashkey.Name("k"), fn)
	},
	"WithTxAll": func(l *xactlock.Locker, fn xactlock.Func) error {
		return l.WithTxAll(context.Background(), []hashkey.Key{hashkey.Name("k")}, fn)
	},
	"TryWithTxAll": func(l *xactlock.Locker, fn xactlock.Func) error {
		return l.TryWithTxAll(context.Background(), []hashkey.Key{hashkey.Name("k")}, fn)
	},
	"WithTxOf": func(l *xactlock.Locker, fn xactlock.Func) error {
		begin := func(context.Context) (*sql.Tx, error) { panic("begin was called") }
		return xactlock.WithTxOf(context.Background(), l, hashkey.Name("k"), begin, fn)
	},
	"TryValue": func(l *xactlock.Locker, fn xactlock.Func) error {
		var withResult func(context.Context, *sql.Tx) (int, error)
		if fn != nil {
			withResult = func(ctx context.Context, tx *sql.Tx) (int, error) { return 0, fn(ctx, tx) }
		}
		_, err := xactlock.TryValue(context.Background(), l, hashkey.Name("k"), withResult)
		return err
	},
	"Value": func(l *xactlock.Locker, fn xactlock.Func) error {
		var withResult func(context.Context, *sql.Tx) (int, error)
		if fn != nil {
			withResult = func(ctx context.Context, tx *sql.Tx) (int, error) { return 0, fn(ctx, tx) }
		}
		_, err := xactlock.Value(context.Background(), l, hashkey.Name("k"), withResult)
		return err
	},
}

// onTx are the ways to ask for a lock in a transaction of the caller's own.
var onTx = map[string]func(*xactlock.Locker, xactlock.Tx, ...hashkey.Key) error{
	"Lock": func(l *xactlock.Locker, tx xactlock.Tx, keys ...hashkey.Key) error {
		return l.Lock(context.Background(), tx, keys...)
	},
	"TryLock": func(l *xactlock.Locker, tx xactlock.Tx, keys ...hashkey.Key) error {
		_, err := l.TryLock(context.Background(), tx, keys...)
		return err
	},
}

func unreachable(t *testing.T) xactlock.Func {
	return func(context.Context, *sql.Tx) error {
		t.Error("fn ran")
		return nil
	}
}

// refuses checks that err is an error that says what is wrong.
func refuses(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want an error that says %q", err, says)
	}
}

// A nil *sql.DB, nil fn, nil tx or no keys are errors, not panics; no server
// is asked.
func TestMissingArguments(t *testing.T) {
	for name, call := range forms {
		t.Run(name, func(t *testing.T) {
			refuses(t, call(xactlock.New(nil), unreachable(t)), "nil *sql.DB")
			refuses(t, call(xactlock.New(nil).With(xactlock.Options{Shared: true}), unreachable(t)), "nil *sql.DB")
			refuses(t, call(xactlock.New(new(sql.DB)), nil), "fn is nil")
		})
	}
	for name, call := range onTx {
		t.Run(name, func(t *testing.T) {
			refuses(t, call(xactlock.New(new(sql.DB)), nil, hashkey.Name("k")), "tx is nil")
			refuses(t, call(xactlock.New(new(sql.DB)), (*sql.Tx)(nil), hashkey.Name("k")), "tx is nil")
			refuses(t, call(xactlock.New(new(sql.DB)), new(sql.Tx)), "no keys")
		})
	}
	refuses(t, xactlock.New(new(sql.DB)).WithTxAll(context.Background(), nil, unreachable(t)), "no keys")
	t.Run("Token", func(t *testing.T) {
		_, err := xactlock.Token(context.Background(), nil)
		refuses(t, err, "tx is nil")
	})
}

// A Locker that New did not make is an error, not a panic.
func TestNoLocker(t *testing.T) {
	for _, l := range []*xactlock.Locker{nil, {}, (*xactlock.Locker)(nil).With(xactlock.Options{Shared: true}), new(xactlock.Locker).With(xactlock.Options{})} {
		for name, call := range forms {
			t.Run(name, func(t *testing.T) { refuses(t, call(l, unreachable(t)), "nil or zero") })
		}
		for name, call := range onTx {
			t.Run(name, func(t *testing.T) { refuses(t, call(l, new(sql.Tx), hashkey.Name("k")), "nil or zero") })
		}
		_, err := l.Exec(context.Background(), hashkey.Name("k"), "select 1")
		refuses(t, err, "nil or zero")
		_ = l.Options()
	}
}

// Options returns what With was given, so that one of them can be changed.
func TestOptions(t *testing.T) {
	l := xactlock.New(new(sql.DB)).With(xactlock.Options{Shared: true, Wait: time.Second})
	o := l.Options()
	o.Wait = time.Minute
	if got := l.With(o).Options(); !got.Shared || got.Wait != time.Minute || l.Options().Wait != time.Second {
		t.Errorf("got %+v", got)
	}
}

// An outcome is its name in JSON.
func TestOutcomeText(t *testing.T) {
	text, err := json.Marshal(map[string]any{"outcome": xactlock.NotAcquired})
	if err != nil || string(text) != `{"outcome":"not acquired"}` {
		t.Errorf("%s, %v", text, err)
	}
}

// An event in JSON says what it is about.
func TestEventJSON(t *testing.T) {
	text, err := json.Marshal(xactlock.Event{
		Op: "WithTx", Keys: []hashkey.Key{hashkey.Namespace("accounts").ID(42)},
		Queued: time.Second, Waited: 1500 * time.Millisecond, Held: 2 * time.Millisecond,
		Contended: true, Outcome: xactlock.RolledBack, Err: sql.ErrNoRows,
	})
	const want = `{"op":"WithTx","keys":["\"accounts/42\" (-286207215604641505)"],"shared":false,"queued":1,"waited":1.5,"held":0.002,` +
		`"contended":true,"plain":false,"outcome":"rolled back","error":"sql: no rows in result set"}`
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v\nwant %s", text, err, want)
	}
}

// Rule 9: a bad option is an error on first use that names the field.
func TestBadOptions(t *testing.T) {
	for field, o := range map[string]xactlock.Options{
		"Wait":       {Wait: -1},
		"Poll":       {Poll: -time.Second},
		"MaxHold":    {MaxHold: -time.Nanosecond},
		"MaxWaiters": {MaxWaiters: -1},
		"Isolation":  {Isolation: sql.LevelLinearizable},
	} {
		t.Run(field, func(t *testing.T) {
			locker := xactlock.New(new(sql.DB)).With(o)
			for _, call := range forms {
				refuses(t, call(locker, unreachable(t)), "Options."+field)
			}
			for _, call := range onTx {
				refuses(t, call(locker, new(sql.Tx), hashkey.Name("k")), "Options."+field)
			}
		})
	}
	t.Run("isolation levels of other databases", func(t *testing.T) {
		for _, level := range []sql.IsolationLevel{sql.LevelWriteCommitted, sql.LevelSnapshot, 99, -1} {
			err := xactlock.New(new(sql.DB)).With(xactlock.Options{Isolation: level}).
				WithTx(context.Background(), hashkey.Name("k"), unreachable(t))
			refuses(t, err, "Options.Isolation")
		}
	})
}

// With replaces all options and leaves the Locker it was called on alone.
func TestWithReplacesAllOptions(t *testing.T) {
	bad := xactlock.New(new(sql.DB)).With(xactlock.Options{Wait: -1})
	good := bad.With(xactlock.Options{Poll: -1})
	refuses(t, good.TryWithTx(context.Background(), hashkey.Name("k"), unreachable(t)), "Options.Poll")
	refuses(t, bad.TryWithTx(context.Background(), hashkey.Name("k"), unreachable(t)), "Options.Wait")
}
