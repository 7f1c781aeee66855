package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// slotPaths are the ways to hold a slot.
var slotPaths = map[string]xactlock.Options{
	"adopted":                 {},
	"adopted shared":          {Shared: true},
	"adopted repeatable read": {Isolation: sql.LevelRepeatableRead},
	"adopted serializable":    {Isolation: sql.LevelSerializable},
	"plain":                   {Plain: true},
}

// There are never more holders than slots, and all slots are used, by callers of
// three pools.
func TestSlots(t *testing.T) {
	t.Parallel()
	const slots, pools, callers, turns = 3, 3, 4, 8
	for path, o := range slotPaths {
		if o.Shared {
			continue // any number may share a slot
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			key := hashkey.Name("k")
			lockers := make([]*xactlock.Locker, pools)
			for i := range lockers {
				lockers[i] = xactlock.New(openSame(t, db)).With(o)
			}
			var inside atomic.Int64
			full, all := make(chan struct{}), sync.Once{}
			err := parallel(pools*callers, func(i int) error {
				for range turns {
					err := lockers[i%pools].WithSlot(t.Context(), key, slots, func(context.Context, *sql.Tx) error {
						defer inside.Add(-1)
						n := inside.Add(1)
						if n > slots {
							t.Errorf("%d holders at once", n)
						}
						if n == slots {
							all.Do(func() {
								err := lockers[(i+1)%pools].TryWithSlot(t.Context(), key, slots, unreachable(t))
								wantError(t, err, xactlock.ErrNotAcquired)
								close(full)
							})
						}
						select {
						case <-full: // once all slots are taken
						case <-time.After(patience):
							t.Error("a slot is never taken")
						}
						return nil
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			noTrace(t, db)
		})
	}
}

// slotVerbs are the two ways of a package to call for a slot.
type slotVerbs struct {
	with, try func(ctx context.Context, key hashkey.Key, n int) error
}

// slotWays returns all ways to hold a slot. A pool has one connection.
func slotWays() map[string]func(t *testing.T, dsn string, m *meter) slotVerbs {
	ways := map[string]func(t *testing.T, dsn string, m *meter) slotVerbs{
		"sessionlock": func(t *testing.T, dsn string, m *meter) slotVerbs {
			db := openMetered(t, dsn, m)
			db.SetMaxOpenConns(1)
			l := sessionlock.New(db)
			fn := func(context.Context, *sql.Conn) error { return nil }
			return slotVerbs{
				func(ctx context.Context, key hashkey.Key, n int) error { return l.WithSlot(ctx, key, n, fn) },
				func(ctx context.Context, key hashkey.Key, n int) error { return l.TryWithSlot(ctx, key, n, fn) },
			}
		},
		"pgxlock": func(t *testing.T, dsn string, m *meter) slotVerbs {
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			m.on(config)
			l := pgxlock.New(openPool(t, config, func(c *pgxpool.Config) { c.MaxConns = 1 }))
			fn := func(context.Context, pgx.Tx) error { return nil }
			return slotVerbs{
				func(ctx context.Context, key hashkey.Key, n int) error { return l.WithSlot(ctx, key, n, fn) },
				func(ctx context.Context, key hashkey.Key, n int) error { return l.TryWithSlot(ctx, key, n, fn) },
			}
		},
	}
	for path, o := range slotPaths {
		ways["xactlock "+path] = func(t *testing.T, dsn string, m *meter) slotVerbs {
			db := openMetered(t, dsn, m)
			db.SetMaxOpenConns(1)
			l := xactlock.New(db).With(o)
			return slotVerbs{
				func(ctx context.Context, key hashkey.Key, n int) error { return l.WithSlot(ctx, key, n, nothing) },
				func(ctx context.Context, key hashkey.Key, n int) error { return l.TryWithSlot(ctx, key, n, nothing) },
			}
		}
	}
	return ways
}

// A free slot is found in the message that asks; where there is none a try is
// refused, and a wait ends within a slice of the release of any.
func TestSlotIsFound(t *testing.T) {
	t.Parallel()
	const n = 50
	key := hashkey.Pair(1, 2)
	for way, open := range slotWays() {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var m meter
			watcher := newDB(t)
			verbs := open(t, dsnOf(t, watcher), &m)
			try := func() error { return verbs.try(t.Context(), key, n) }
			if err := try(); err != nil {
				t.Fatal(err)
			}
			alone := m.during(t, try)
			others := ownConn(t, watcher)
			do := func(f string, slot int) {
				class, object, _ := key.Slot(slot).Pair()
				if _, err := others.ExecContext(t.Context(), `select `+f+`($1::int, $2::int)`, class, object); err != nil {
					t.Fatal(err)
				}
			}
			const last = 31
			for slot := range n {
				if slot != last {
					do(`pg_advisory_lock`, slot)
				}
			}
			if beside := m.during(t, try); beside != alone || !strings.HasSuffix(way, "plain") && beside != 2 {
				t.Errorf("%d messages beside %d holders, %d without", beside, n-1, alone)
			}
			do(`pg_advisory_lock`, last)
			wantError(t, try(), xactlock.ErrNotAcquired)
			for _, slot := range []int{0, 17, n - 1} {
				done := make(chan error, 1)
				go func() { done <- verbs.with(bounded(t), key, n) }()
				until(t, "the call waits", func() bool { return waitingLocks(t, watcher) == 1 })
				before := m.messages.Load()
				do(`pg_advisory_unlock`, slot)
				if err := <-done; err != nil {
					t.Error(err)
				}
				// The message under way finds it, or the next one. Then it is given back.
				if sent := int(m.messages.Load() - before); sent > alone+2 {
					t.Errorf("slot %d was found after %d messages", slot, sent)
				}
				do(`pg_advisory_lock`, slot)
			}
		})
	}
}

// A key has as many slots as may be, at each level.
func TestManySlots(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, key := range []hashkey.Key{hashkey.Name("many"), hashkey.Pair(-1, -2)} {
		for _, level := range isolations {
			l := xactlock.New(db).With(xactlock.Options{Isolation: level})
			err := l.WithSlot(bounded(t), key, locksql.MaxSlots, func(ctx context.Context, tx *sql.Tx) error {
				holds(t, tx, false, key)
				return nil
			})
			if err != nil {
				t.Errorf("%v: %v", level, err)
			}
		}
	}
	noTrace(t, db)
}

// A slot's lock that other code has left on the pooled session stays there, and nothing
// else does.
func TestSlotBesideALeftover(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	db.SetMaxOpenConns(1)
	for _, level := range isolations {
		for i := range int64(12) { // pg_locks has no order
			key := hashkey.Int64(i)
			left := key.Slot(1).Int64()
			exec(t, db, `select pg_advisory_lock($1)`, left)
			l := xactlock.New(db).With(xactlock.Options{Isolation: level})
			wantNoError(t, l.WithSlot(bounded(t), key, 3, nothing))
			if n := heldLocks(t, db); n != 1 {
				t.Errorf("%v: %d locks are held, want what was left", level, n)
			}
			exec(t, db, `select pg_advisory_unlock($1)`, left)
			if n := heldLocks(t, db); n != 0 {
				t.Errorf("%v: %d locks are held without what was left", level, n)
			}
			exec(t, db, `select pg_advisory_unlock_all()`)
		}
	}
}

// A call inside a slot's callback, for a slot of the same key on the same pool, is
// refused whichever slot the callback has: it could wait for its own caller. So is
// one for the key itself, which is a slot, too.
func TestNestedSlot(t *testing.T) {
	t.Parallel()
	const n = 2
	db, key := newDB(t), hashkey.Name("k")
	sessions, transactions := sessionlock.New(db), xactlock.New(db)
	config, err := pgx.ParseConfig(dsnOf(t, db))
	if err != nil {
		t.Fatal(err)
	}
	pooled := pgxlock.New(openPool(t, config, func(*pgxpool.Config) {}))
	onConn := func(fn func(context.Context) error) func(context.Context, *sql.Conn) error {
		return func(ctx context.Context, _ *sql.Conn) error { return fn(ctx) }
	}
	inTx := func(fn func(context.Context) error) xactlock.Func {
		return func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) }
	}
	inPgxTx := func(fn func(context.Context) error) pgxlock.Func {
		return func(ctx context.Context, _ pgx.Tx) error { return fn(ctx) }
	}
	fnRan := func(context.Context) error { t.Error("fn ran"); return nil }
	onDB := map[string]func(context.Context) error{
		"sessionlock.WithSlot":    func(ctx context.Context) error { return sessions.WithSlot(ctx, key, n, onConn(fnRan)) },
		"sessionlock.TryWithSlot": func(ctx context.Context) error { return sessions.TryWithSlot(ctx, key, n, onConn(fnRan)) },
		"sessionlock.WithLock":    func(ctx context.Context) error { return sessions.WithLock(ctx, key, onConn(fnRan)) },
		"xactlock.WithSlot":       func(ctx context.Context) error { return transactions.WithSlot(ctx, key, n, inTx(fnRan)) },
		"xactlock.TryWithSlot":    func(ctx context.Context) error { return transactions.TryWithSlot(ctx, key, n, inTx(fnRan)) },
		"xactlock.WithTx":         func(ctx context.Context) error { return transactions.WithTx(ctx, key, inTx(fnRan)) },
	}
	onPool := map[string]func(context.Context) error{
		"pgxlock.WithSlot":    func(ctx context.Context) error { return pooled.WithSlot(ctx, key, n, inPgxTx(fnRan)) },
		"pgxlock.TryWithSlot": func(ctx context.Context) error { return pooled.TryWithSlot(ctx, key, n, inPgxTx(fnRan)) },
	}
	for slot := range n {
		if slot == 1 { // slot 0 is somebody else's
			lock(t, sessionlock.New(openSame(t, db)), key)
		}
		for outer, calls := range map[string]struct {
			hold  func(ctx context.Context, fn func(context.Context) error) error
			inner map[string]func(context.Context) error
		}{
			"sessionlock": {func(ctx context.Context, fn func(context.Context) error) error {
				return sessions.WithSlot(ctx, key, n, onConn(func(ctx context.Context) error {
					if got := sessionlock.FromContext(ctx).Key(); got != key.Slot(slot) {
						t.Errorf("the lock is %v, want slot %d", got, slot)
					}
					_, err := sessions.Lock(ctx, key.Slot(slot))
					wantError(t, err, sessionlock.ErrNested)
					return fn(ctx)
				}))
			}, onDB},
			"xactlock": {func(ctx context.Context, fn func(context.Context) error) error {
				return transactions.WithSlot(ctx, key, n, inTx(fn))
			}, onDB},
			"pgxlock": {func(ctx context.Context, fn func(context.Context) error) error {
				return pooled.WithSlot(ctx, key, n, inPgxTx(fn))
			}, onPool},
		} {
			err := calls.hold(bounded(t), func(ctx context.Context) error {
				for inner, call := range calls.inner {
					if err := call(ctx); !errors.Is(err, sessionlock.ErrNested) {
						t.Errorf("%s in slot %d of %s: %v, want ErrNested", inner, slot, outer, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Errorf("slot %d of %s: %v", slot, outer, err)
			}
		}
	}
}

// The events of one hold of a slot have one key, the one that was asked for.
func TestSlotEvents(t *testing.T) {
	t.Parallel()
	db, key := newDB(t), hashkey.Name("k")
	lock(t, sessionlock.New(db), key) // slot 0
	var told []sessionlock.EventKind
	l := sessionlock.New(db).With(sessionlock.Options{Observe: func(e sessionlock.Event) {
		told = append(told, e.Kind)
		if e.Key != key {
			t.Errorf("%v is about %v, want %v", e.Kind, e.Key, key)
		}
	}})
	err := l.WithSlot(t.Context(), key, 2, func(context.Context, *sql.Conn) error { return nil })
	if want := []sessionlock.EventKind{sessionlock.Waiting, sessionlock.Granted, sessionlock.Released}; err != nil || !slices.Equal(told, want) {
		t.Errorf("got %v, told %v, want %v", err, told, want)
	}
	told = nil
	err = l.WithSlot(t.Context(), key, 2, func(ctx context.Context, conn *sql.Conn) error {
		_, _ = conn.ExecContext(ctx, `select pg_terminate_backend(pg_backend_pid())`) // fails: it ends its own session
		return nil
	})
	if want := []sessionlock.EventKind{sessionlock.Waiting, sessionlock.Granted, sessionlock.Lost}; !errors.Is(err, sessionlock.ErrLost) || !slices.Equal(told, want) {
		t.Errorf("got %v, told %v, want %v", err, told, want)
	}
	if slot := key.Slot(1).String(); err != nil && !strings.Contains(err.Error(), slot) {
		t.Errorf("%q does not say that the slot was %v", err, slot)
	}
}

// What cannot be is refused.
func TestInvalidSlots(t *testing.T) {
	t.Parallel()
	db, key := newDB(t), hashkey.Name("k")
	for _, test := range []struct {
		n int
		o xactlock.Options
	}{
		{0, xactlock.Options{}},
		{-1, xactlock.Options{}},
		{math.MaxInt, xactlock.Options{}},
		{2, xactlock.Options{Plain: true, Isolation: sql.LevelRepeatableRead}},
		{2, xactlock.Options{Plain: true, Isolation: sql.LevelSerializable}},
	} {
		l := xactlock.New(db).With(test.o)
		for _, call := range []func(context.Context, hashkey.Key, int, xactlock.Func) error{l.WithSlot, l.TryWithSlot} {
			err := call(t.Context(), key, test.n, unreachable(t))
			if err == nil || !strings.Contains(err.Error(), "slots") || errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("%d slots, %+v: got %v", test.n, test.o, err)
			}
		}
	}
	noTrace(t, db)
}
