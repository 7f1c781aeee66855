package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Rule 10: a call inside fn, with fn's ctx, on the same pool is refused at
// once, whatever its key: it would wait on another connection for what this
// one holds. Another Locker on the pool is no way around.
func TestNestedCallIsRefused(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		type contextKey struct{}
		derived := map[string]func(context.Context) context.Context{
			"fn's ctx":       func(ctx context.Context) context.Context { return ctx },
			"with a value":   func(ctx context.Context) context.Context { return context.WithValue(ctx, contextKey{}, 1) },
			"without an end": context.WithoutCancel,
			"with a deadline": func(ctx context.Context) context.Context {
				ctx, cancel := context.WithTimeout(ctx, time.Minute)
				t.Cleanup(cancel)
				return ctx
			},
		}
		for outer, call := range calls(l) {
			err := call(bounded(t), func(ctx context.Context, tx *sql.Tx) error {
				inUse := db.Stats().InUse
				for how, derive := range derived {
					for inner, nested := range calls(xactlock.New(db).With(xactlock.Options{Shared: true})) {
						if err := nested(derive(ctx), unreachable(t)); !errors.Is(err, xactlock.ErrNested) {
							t.Errorf("%s in %s, %s: %v, want ErrNested", inner, outer, how, err)
						}
					}
				}
				if now := db.Stats().InUse; now != inUse {
					t.Errorf("%d connections are in use, before it were %d", now, inUse)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s: %v", outer, err)
			}
		}
	})
}

// Rule 10: MaxHold puts another ctx around the mark.
func TestNestedCallUnderMaxHold(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		o := paths[pathOf(t)]
		o.MaxHold = time.Minute
		err := l.With(o).WithTx(bounded(t), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			return l.WithTx(ctx, hashkey.Name("other"), unreachable(t))
		})
		if !errors.Is(err, xactlock.ErrNested) {
			t.Errorf("got %v, want ErrNested", err)
		}
	})
}

// Rule 10: a call inside a call on another pool inside a call is nested too.
func TestNestedCallThroughAnotherPool(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	one, two := xactlock.New(db), xactlock.New(openSame(t, db))
	err := one.WithTx(bounded(t), hashkey.Name("one"), func(ctx context.Context, _ *sql.Tx) error {
		return two.WithTx(ctx, hashkey.Name("two"), func(ctx context.Context, _ *sql.Tx) error {
			return one.WithTx(ctx, hashkey.Name("three"), unreachable(t))
		})
	})
	if !errors.Is(err, xactlock.ErrNested) {
		t.Errorf("got %v, want ErrNested", err)
	}
	if err := one.TryWithTx(t.Context(), hashkey.Name("one"), nothing); err != nil {
		t.Error(err)
	}
}

// Rule 10: what is not nested is not refused: another pool, a ctx that is not
// fn's, and fn's ctx after fn has returned, however it did.
func TestNotNested(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		other := xactlock.New(openSame(t, db))
		var kept []context.Context
		keep := func(then xactlock.Func) xactlock.Func {
			return func(ctx context.Context, tx *sql.Tx) error {
				kept = append(kept, ctx)
				return then(ctx, tx)
			}
		}
		err := l.WithTx(t.Context(), hashkey.Name("k"), keep(func(ctx context.Context, tx *sql.Tx) error {
			return errors.Join(
				other.WithTx(ctx, hashkey.Name("other"), nothing),
				l.WithTx(t.Context(), hashkey.Name("other"), nothing),
			)
		}))
		if err != nil {
			t.Error(err)
		}
		_ = l.WithTx(t.Context(), hashkey.Name("k"), keep(func(context.Context, *sql.Tx) error { return errExpected }))
		func() {
			defer func() { _ = recover() }()
			_ = l.WithTx(t.Context(), hashkey.Name("k"), keep(func(context.Context, *sql.Tx) error { panic(errExpected) }))
		}()
		for _, ctx := range kept {
			if err := l.WithTx(context.WithoutCancel(ctx), hashkey.Name("k"), nothing); err != nil {
				t.Errorf("with a ctx whose fn has returned: %v", err)
			}
			if err := l.WithTx(ctx, hashkey.Name("k"), nothing); !errors.Is(err, context.Canceled) {
				t.Errorf("with a ctx whose fn has returned, and which has ended: %v", err)
			}
		}
		if len(kept) != 3 {
			t.Errorf("fn ran %d times, want 3", len(kept))
		}
	})
}

// Rule 10: the way to take a second lock is on the transaction in hand. It is
// held, and then free, as long as the first.
func TestSecondLockInsideFn(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		first, second, third := hashkey.Name("first"), hashkey.Name("second"), hashkey.Pair(3, 3)
		err := l.WithTx(bounded(t), first, func(ctx context.Context, tx *sql.Tx) error {
			ok, tryErr := l.TryLock(ctx, tx, third)
			err := errors.Join(l.Lock(ctx, tx, second), tryErr)
			if paths[pathOf(t)].Isolation == sql.LevelSerializable {
				if !errors.Is(err, xactlock.ErrStaleSnapshot) || ok {
					t.Errorf("got %t, %v, want ErrStaleSnapshot", ok, err)
				}
				holds(t, tx, false, first)
				return nil
			}
			holds(t, tx, false, first, second, third)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
