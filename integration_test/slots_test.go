package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
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
							all.Do(func() { close(full) })
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

// holdSlot holds a slot until it is released.
func holdSlot(t *testing.T, l *xactlock.Locker, key hashkey.Key, n int) (release func()) {
	t.Helper()
	inside, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		left <- l.TryWithSlot(t.Context(), key, n, func(context.Context, *sql.Tx) error {
			close(inside)
			<-leave
			return nil
		})
	}()
	select {
	case <-inside:
	case err := <-left:
		t.Fatal(err)
	}
	return func() {
		close(leave)
		if err := <-left; err != nil {
			t.Error(err)
		}
	}
}

// A free slot is found in the message that begins the transaction; where there is
// none a try is refused, and a wait ends within a slice of the release of any.
func TestSlotIsFound(t *testing.T) {
	t.Parallel()
	for path, o := range slotPaths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			var m meter
			db := openMetered(t, newDatabase(t), &m)
			db.SetMaxOpenConns(1)
			watcher := openSame(t, db)
			others := xactlock.New(watcher).With(o)
			if o.Shared {
				others = others.With(xactlock.Options{}) // or else they share slot 0
			}
			l, key := xactlock.New(db).With(o), hashkey.Pair(1, 2)
			const n = 3
			call := func() error { return l.TryWithSlot(t.Context(), key, n, nothing) }
			if err := call(); err != nil {
				t.Fatal(err)
			}
			alone := m.during(t, call)
			var releases []func()
			for range n - 1 {
				releases = append(releases, holdSlot(t, others, key, n))
			}
			if beside := m.during(t, call); beside != alone || !o.Plain && beside != 2 {
				t.Errorf("%d messages beside %d holders, %d without", beside, n-1, alone)
			}
			releases = append(releases, holdSlot(t, others, key, n))
			if err := call(); !errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("a try: got %v", err)
			}
			if err := l.TryWithTx(t.Context(), key, nothing); !errors.Is(err, xactlock.ErrNotAcquired) {
				t.Errorf("slot 0 is not the key's own lock: %v", err)
			}
			for _, release := range releases {
				done := make(chan error, 1)
				go func() { done <- l.WithSlot(t.Context(), key, n, nothing) }()
				until(t, "the call waits", func() bool { return waitingLocks(t, watcher) == 1 })
				release()
				if err := <-done; err != nil {
					t.Error(err)
				}
				releases = releases[1:]
				if len(releases) > 0 {
					again := holdSlot(t, others, key, n)
					defer again()
				}
			}
		})
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
