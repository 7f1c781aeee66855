package integration_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// edges are keys where an integer, its sign or its halves could go wrong.
var edges = []hashkey.Key{
	hashkey.Int64(math.MinInt64), hashkey.Int64(math.MaxInt64), hashkey.Int64(-1), hashkey.Int64(0), hashkey.Int64(1),
	hashkey.Int64(math.MinInt32), hashkey.Int64(math.MaxInt32 + 1), hashkey.Int64(math.MaxUint32), hashkey.Int64(-1 << 32),
	hashkey.Pair(math.MinInt32, math.MinInt32), hashkey.Pair(math.MinInt32, math.MaxInt32),
	hashkey.Pair(math.MaxInt32, math.MinInt32), hashkey.Pair(math.MaxInt32, math.MaxInt32),
	hashkey.Pair(-1, -1), hashkey.Pair(-1, 0), hashkey.Pair(0, -1), hashkey.Pair(0, 0), hashkey.Pair(1, 2),
	hashkey.Name(""), hashkey.Name("k"), hashkey.Namespace("orders").ID(-42),
}

// entry is a row of pg_locks.
type entry struct {
	class, object uint32
	space         int // 1 for a bigint, 2 for a pair
	mode          string
}

// want returns the row of a key.
func want(key hashkey.Key, shared bool) entry {
	e := entry{uint32(key.Int64() >> 32), uint32(key.Int64()), 1, "ExclusiveLock"}
	if _, _, pair := key.Pair(); pair {
		e.space = 2
	}
	if shared {
		e.mode = "ShareLock"
	}
	return e
}

// wants returns the rows of keys in the order of entries.
func wants(shared bool, keys ...hashkey.Key) []entry {
	all := make([]entry, len(keys))
	for i, key := range keys {
		all[i] = want(key, shared)
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.space, b.space), cmp.Compare(a.class, b.class), cmp.Compare(a.object, b.object))
	})
	return all
}

// entries returns the advisory locks that the session of tx holds.
func entries(tb testing.TB, tx *sql.Tx) []entry {
	tb.Helper()
	rows, err := tx.Query(`select classid, objid, objsubid, mode from pg_locks
		where pid = pg_backend_pid() and granted and` + inThisDatabase + `order by objsubid, classid, objid`)
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	var all []entry
	for rows.Next() {
		var e entry
		if err := rows.Scan(&e.class, &e.object, &e.space, &e.mode); err != nil {
			tb.Fatal(err)
		}
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return all
}

// holds checks which keys the session of tx holds.
func holds(tb testing.TB, tx *sql.Tx, shared bool, keys ...hashkey.Key) {
	tb.Helper()
	if got, want := entries(tb, tx), wants(shared, keys...); !slices.Equal(got, want) {
		tb.Errorf("pg_locks has %v, want %v", got, want)
	}
}

// Every key locks its own number in its own key space, in the right mode, on
// every path.
func TestKeysOnTheServer(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		for _, shared := range []bool{false, true} {
			o := paths[pathOf(t)]
			o.Shared = shared
			locker := l.With(o)
			for _, key := range edges {
				check := func(_ context.Context, tx *sql.Tx) error {
					holds(t, tx, shared, key)
					return nil
				}
				for name, call := range map[string]error{
					"WithTx":    locker.WithTx(t.Context(), key, check),
					"TryWithTx": locker.TryWithTx(t.Context(), key, check),
					"Lock": inTx(db, func(tx *sql.Tx) error {
						return errors.Join(locker.Lock(t.Context(), tx, key), check(t.Context(), tx))
					}),
					"TryLock": inTx(db, func(tx *sql.Tx) error {
						return errors.Join(tryLock(t.Context(), locker, tx, key), check(t.Context(), tx))
					}),
				} {
					if call != nil {
						t.Errorf("%s, %v, shared %t: %v", name, key, shared, call)
					}
				}
			}
			err := locker.WithTxAll(t.Context(), edges, func(_ context.Context, tx *sql.Tx) error {
				holds(t, tx, shared, edges...)
				return nil
			})
			if err != nil {
				t.Errorf("all at once, shared %t: %v", shared, err)
			}
		}
	})
}

// A wait locks the same, whichever key it is for, and frees it all.
func TestKeysAfterAWait(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		for i, key := range edges {
			shared := i%2 == 0
			o := paths[pathOf(t)]
			o.Shared = shared
			holder := hold(t, xactlock.New(db), key)
			done := make(chan error, 1)
			go func() {
				done <- l.With(o).WithTxAll(t.Context(), edges, func(_ context.Context, tx *sql.Tx) error {
					holds(t, tx, shared, edges...)
					return nil
				})
			}()
			until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
			if err := errors.Join(holder.release(), <-done); err != nil {
				t.Error(err)
			}
			if n := heldLocks(t, db); n != 0 {
				t.Fatalf("%d locks are held after a wait for %v", n, key)
			}
		}
	})
}

// The two key spaces never conflict, whatever the bits.
func TestKeySpacesAreSeparate(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	hold(t, xactlock.New(db), hashkey.Int64(1<<32|2))
	if err := xactlock.New(db).TryWithTx(t.Context(), hashkey.Pair(1, 2), nothing); err != nil {
		t.Error(err)
	}
}

// Rule 11: keys are taken in the order of Compare, not in the caller's: while
// the first one of that order is missing, the second is free.
func TestKeysAreSorted(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		for _, keys := range [][]hashkey.Key{
			{hashkey.Int64(1), hashkey.Int64(2)},
			{hashkey.Int64(-1), hashkey.Int64(1)},
			{hashkey.Int64(2), hashkey.Pair(0, 1)},
			{hashkey.Pair(-1, 0), hashkey.Pair(0, -1)},
		} {
			holder := hold(t, xactlock.New(db), keys[0])
			done := make(chan error, 1)
			go func() { done <- l.WithTxAll(t.Context(), []hashkey.Key{keys[1], keys[0]}, nothing) }()
			until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
			if err := xactlock.New(db).TryWithTx(t.Context(), keys[1], nothing); err != nil {
				t.Errorf("%v is taken before %v: %v", keys[1], keys[0], err)
			}
			if err := errors.Join(holder.release(), <-done); err != nil {
				t.Error(err)
			}
		}
	})
}

// Rule 11: callers who name overlapping keys in any order do not deadlock, and
// take turns on each of them.
func TestOverlappingKeysDoNotDeadlock(t *testing.T) {
	t.Parallel()
	const goroutines, most = 8, 5
	turns := stress(50)
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		exec(t, db, `create table counters (k int, n int)`)
		exec(t, db, `insert into counters select k, 0 from generate_series(1, $1::int) k`, most)
		exec(t, db, `create index on counters (k)`)
		lockers := []*xactlock.Locker{l, xactlock.New(openSame(t, db)).With(paths[pathOf(t)])}
		totals := make([][most + 1]int, goroutines)
		err := parallel(goroutines, func(i int) error {
			for range turns {
				numbers := rand.Perm(most)[:2+rand.IntN(most-1)]
				var keys []hashkey.Key
				for _, n := range numbers {
					keys = append(keys, hashkey.Pair(int32(-n), int32(n)))
					totals[i][n]++
				}
				err := lockers[i%2].WithTxAll(t.Context(), keys, func(ctx context.Context, tx *sql.Tx) error {
					return incrementEach(ctx, tx, numbers)
				})
				if err != nil && sqlState(err) != serializationFailure {
					return fmt.Errorf("%v: %w", keys, err)
				}
				if err != nil {
					for _, n := range numbers {
						totals[i][n]--
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		for n := range most {
			want := 0
			for i := range totals {
				want += totals[i][n]
			}
			if got := number(t, db, `select n from counters where k = $1`, n+1); got != want {
				t.Errorf("counter %d is %d after %d increments", n+1, got, want)
			}
		}
	})
}

// serializationFailure is what SERIALIZABLE transactions may fail with that
// hold different locks and read the same rows, or the same page.
const serializationFailure = "40001"

func incrementEach(ctx context.Context, tx *sql.Tx, numbers []int) error {
	for _, k := range numbers {
		var n int
		if err := tx.QueryRowContext(ctx, `select n from counters where k = $1`, k+1).Scan(&n); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `update counters set n = $2 where k = $1`, k+1, n+1); err != nil {
			return err
		}
	}
	return nil
}

// Rule 11: a key given twice, also under two names, is one lock, and free
// after the call.
func TestSameKeyTwice(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		named := hashkey.Name("k")
		keys := []hashkey.Key{named, hashkey.Pair(1, 1), hashkey.Int64(named.Int64()), named, hashkey.Pair(1, 1)}
		given := slices.Clone(keys)
		err := l.WithTxAll(bounded(t), keys, func(_ context.Context, tx *sql.Tx) error {
			holds(t, tx, false, named, hashkey.Pair(1, 1))
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if n := heldLocks(t, db); n != 0 {
			t.Errorf("%d locks are held after the call", n)
		}
		if !slices.Equal(keys, given) {
			t.Errorf("the caller's slice has become %v", keys)
		}
	})
}

// Rule 11: a try for many keys takes all or none: there is none such, but a
// poll is one. While it asks again and again, it keeps nothing.
func TestManyKeysAllOrNothing(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		o := paths[pathOf(t)]
		o.Poll = 1
		keys := []hashkey.Key{hashkey.Int64(1), hashkey.Int64(2), hashkey.Int64(3)}
		holder := hold(t, xactlock.New(db), keys[2])
		messages := m.messages.Load()
		done := make(chan error, 1)
		go func() { done <- l.With(o).WithTxAll(t.Context(), keys, nothing) }()
		until(t, "the call has asked often", func() bool { return m.messages.Load() > messages+20 })
		if err := xactlock.New(db).WithTxAll(t.Context(), keys[:2], nothing); err != nil {
			t.Errorf("the others: %v", err)
		}
		if err := errors.Join(holder.release(), <-done); err != nil {
			t.Error(err)
		}
	})
}

// Rule 9: messages name the key as a person wrote it, and the number.
func TestErrorsNameTheKey(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for key, names := range map[hashkey.Key]string{
		hashkey.Name("nightly"):           `"nightly" (-5587572470608224788)`,
		hashkey.Namespace("orders").ID(7): `"orders/7" (`,
		hashkey.Int64(-7):                 `-7`,
		hashkey.Pair(1, -2):               `(1, -2)`,
	} {
		holder := hold(t, l, key)
		for what, err := range map[string]error{
			"a refused try": l.TryWithTx(t.Context(), key, unreachable(t)),
			"an ended ctx":  l.WithTx(ctx, key, unreachable(t)),
			"a wait":        l.With(xactlock.Options{Wait: time.Millisecond}).WithTx(t.Context(), key, unreachable(t)),
			"a wait in the caller's transaction": inTx(db, func(tx *sql.Tx) error {
				return l.With(xactlock.Options{Wait: time.Millisecond}).Lock(t.Context(), tx, key)
			}),
		} {
			if err == nil || !strings.Contains(err.Error(), names) {
				t.Errorf("%s: %v, which does not name %s", what, err, names)
			}
		}
		if err := holder.release(); err != nil {
			t.Error(err)
		}
		for what, fn := range map[string]xactlock.Func{
			"a nested call": func(ctx context.Context, _ *sql.Tx) error { return l.WithTx(ctx, key, unreachable(t)) },
			"Commit":        func(_ context.Context, tx *sql.Tx) error { _ = tx.Commit(); return nil },
			"a lost error":  func(_ context.Context, tx *sql.Tx) error { _, _ = tx.Exec(`select 1/0`); return nil },
		} {
			if err := l.WithTx(bounded(t), key, fn); err == nil || !strings.Contains(err.Error(), names) {
				t.Errorf("%s: %v, which does not name %s", what, err, names)
			}
		}
	}
}
