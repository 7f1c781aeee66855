package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

var shareable = sessionlock.Options{Shareable: true, Check: 50 * time.Millisecond}

// Ten thousand locks of one process take one connection, one message each to take
// and one to free, and all are lost together.
func TestTenThousandShareableLocks(t *testing.T) {
	t.Parallel()
	n := stress(10_000)
	server := pgtest.Dedicated(t, "max_locks_per_transaction = 256")
	watcher := openDB(t, server.DSN())
	var m meter
	db := openMetered(t, server.DSN(), &m)
	l := sessionlock.New(db).With(shareable)
	locks := make([]*sessionlock.Lock, n)
	began := time.Now()
	few := func() int { return 5 + int(time.Since(began)/(10*time.Second)) } // that ask for the session now and then
	taken := m.during(t, func() error {
		return parallel(8, func(w int) error {
			for i := w; i < n; i += 8 {
				var err error
				if locks[i], err = l.TryLock(t.Context(), hashkey.Int64(int64(i))); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if held := heldLocks(t, watcher); held != n || db.Stats().InUse != 1 || taken > n+few() {
		t.Errorf("%d locks are held, on %d connections, by %d messages", held, db.Stats().InUse, taken)
	}
	freed := m.during(t, func() error {
		for _, k := range locks[:n/2] {
			if err := k.Unlock(); err != nil {
				return err
			}
		}
		return nil
	})
	if held := heldLocks(t, watcher); held != n-n/2 || freed > n/2+few() {
		t.Errorf("%d locks are left, after %d messages", held, freed)
	}
	if locks[n-1].Err() != nil || locks[0].Err() == nil || locks[0].Conn() != nil {
		t.Errorf("errors are %v and %v, conn %v", locks[n-1].Err(), locks[0].Err(), locks[0].Conn())
	}
	exec(t, watcher, `select pg_terminate_backend(pid) from (select distinct pid from pg_locks where locktype = 'advisory') l`)
	for _, k := range locks[n/2:] {
		select {
		case <-k.Lost():
			wantError(t, k.Err(), sessionlock.ErrLost)
		case <-time.After(patience):
			t.Fatal("the loss is not told")
		}
		wantError(t, k.Unlock(), sessionlock.ErrLost)
	}
	k, err := l.Lock(t.Context(), hashkey.Int64(1))
	if err != nil {
		t.Fatal(err)
	}
	unlock(t, k)
	noTrace(t, watcher, db)
}

// A full lock table is an error, and the locks that are there stay.
func TestShareableLockTableFull(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t, "max_locks_per_transaction = 10", "max_connections = 10")
	db := openDB(t, server.DSN())
	db.SetMaxOpenConns(4)
	l := sessionlock.New(db).With(shareable)
	var locks []*sessionlock.Lock
	for {
		k, err := l.TryLock(t.Context(), hashkey.Int64(int64(len(locks))))
		if err != nil {
			if !errors.Is(err, sessionlock.ErrLockTableFull) {
				t.Fatalf("after %d locks: %v", len(locks), err)
			}
			break
		}
		if locks = append(locks, k); len(locks) > 5000 {
			t.Fatal("the lock table is never full")
		}
	}
	for _, k := range locks {
		unlock(t, k) // an error says that it was lost
	}
	noTrace(t, db)
}

// No Shareable lock is granted twice, and shared and exclusive ones exclude each
// other, within the process and beside another.
func TestShareableLocksExclude(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	others := openSame(t, db)
	const keys, callers, turns = 3, 12, 20
	var readers, writers [keys]atomic.Int64
	lockers := []*sessionlock.Locker{sessionlock.New(db).With(shareable), sessionlock.New(others).With(shareable), sessionlock.New(openSame(t, db))}
	err := parallel(callers, func(i int) error {
		l := lockers[i%len(lockers)]
		for n := range turns {
			k, o := (i+n)%keys, l.Options()
			o.Shared = n%3 == 0
			err := l.With(o).WithLock(t.Context(), hashkey.Int64(int64(k)), func(context.Context, *sql.Conn) error {
				mine, theirs := &writers[k], &readers[k]
				if o.Shared {
					mine, theirs = theirs, mine
				}
				if n := mine.Add(1); n > 1 && !o.Shared || theirs.Load() > 0 {
					t.Errorf("%d holders beside %d others, shared %t", n, theirs.Load(), o.Shared)
				}
				time.Sleep(time.Millisecond)
				mine.Add(-1)
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
	noTrace(t, db, others)
}

// Who waits for one lock holds up no other.
func TestShareableWaitHoldsUpNobody(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	held := lock(t, sessionlock.New(openSame(t, db)), hashkey.Name("held"))
	l := sessionlock.New(db).With(shareable)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := l.Lock(ctx, hashkey.Name("held"))
		done <- err
	}()
	until(t, "it waits", func() bool { return waitingLocks(t, db) == 1 })
	mine := lock(t, l, hashkey.Name("mine"))
	began := time.Now()
	for range 20 {
		unlock(t, lock(t, l, hashkey.Name("free")))
		short, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := l.Lock(short, hashkey.Name("mine"))
		wantError(t, err, sessionlock.ErrNotAcquired, context.DeadlineExceeded)
		_, err = l.TryLock(t.Context(), hashkey.Name("mine"))
		wantError(t, err, sessionlock.ErrNotAcquired)
		cancel()
	}
	// Behind a waiter on their session they would have waited for a slice each.
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("20 locks and 40 refusals took %v beside a waiter", took)
	}
	cancel()
	wantError(t, <-done, context.Canceled)
	unlock(t, mine)
	unlock(t, held)
	noTrace(t, db)
}

// A Shareable lock that was waited for keeps its connection, and counts as a waiter:
// beside as many as half of the pool one call waits, and the rest is left alone.
func TestShareableLocksThatWaited(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	watcher := openSame(t, db)
	db.SetMaxOpenConns(10)
	l := sessionlock.New(db).With(shareable)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	granted := make(chan *sessionlock.Lock, 10)
	// wait has five calls wait for keys that are held.
	wait := func(first int64) (held []*sessionlock.Lock) {
		for i := range int64(5) {
			held = append(held, lock(t, sessionlock.New(watcher), hashkey.Int64(first+i)))
			all.Go(func() {
				if k, err := l.Lock(ctx, hashkey.Int64(first+i)); err == nil {
					granted <- k
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		return held
	}
	held := wait(0)
	until(t, "five wait", func() bool { return waitingLocks(t, watcher) == 5 })
	for _, k := range held {
		unlock(t, k)
	}
	until(t, "five are granted", func() bool { return len(granted) == 5 })
	held = wait(5)
	until(t, "another waits", func() bool { return waitingLocks(t, watcher) > 0 })
	for range 50 {
		// Others may be asking meanwhile.
		if n, conns := waitingLocks(t, watcher), db.Stats().InUse; n > 1 || conns > 8 {
			t.Errorf("%d wait beside five that have waited, and %d connections are in use", n, conns)
			break
		}
	}
	cancel()
	all.Wait()
	close(granted)
	for k := range granted {
		unlock(t, k)
	}
	for _, k := range held {
		unlock(t, k)
	}
	noTrace(t, watcher, db)
}

// A Shareable lock has tokens, may lead, and is ended after MaxHold without the
// others.
func TestShareableHolds(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := sessionlock.New(db).With(shareable)
	beside := lock(t, l, hashkey.Name("beside"))
	first, err := beside.Token(t.Context())
	if err != nil {
		t.Error(err)
	}
	err = l.Lead(t.Context(), hashkey.Name("leader"), func(ctx context.Context) error {
		token, err := sessionlock.FromContext(ctx).Token(ctx)
		if token <= first {
			t.Errorf("token %d after %d", token, first)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	o := shareable
	o.MaxHold, o.Grace = 50*time.Millisecond, 50*time.Millisecond
	err = l.With(o).WithLock(t.Context(), hashkey.Name("slow"), func(context.Context, *sql.Conn) error {
		becomesFree(t, db, hashkey.Name("slow"))
		return nil
	})
	wantError(t, err, sessionlock.ErrLost)
	if err := beside.Err(); err != nil {
		t.Errorf("the lock beside: %v", err)
	}
	unlock(t, beside)
	noTrace(t, db)
}

// Locks that come and go leave one watch of their session behind, and not one
// each.
func TestShareableLocksLeaveNoWatch(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	// The watch does not look at the session by itself during the test.
	l := sessionlock.New(db).With(sessionlock.Options{Shareable: true, Check: time.Hour, DeadClient: 3 * time.Hour})
	ctx := pulse.With(t.Context(), time.Hour)
	for range 100 {
		unlock(t, lockUnder(ctx, t, l, hashkey.Name("k")))
	}
	const ofOtherTests = 30
	until(t, "there is no watch", func() bool {
		all := make([]byte, 16<<20)
		all = all[:runtime.Stack(all, true)]
		return strings.Count(string(all), "sessionlock.(*common).watch(") < ofOtherTests
	})
	noTrace(t, db)
}

// A pool of one connection, which the common session has, is enough to wait for a
// lock.
func TestShareablePoolOfOne(t *testing.T) {
	t.Parallel()
	watcher, m := newDB(t), new(meter)
	db := openMetered(t, dsnOf(t, watcher), m)
	db.SetMaxOpenConns(1)
	l := sessionlock.New(db).With(shareable)
	keep := lock(t, l, hashkey.Name("keep"))
	held := lock(t, sessionlock.New(watcher), hashkey.Name("held"))
	sent := m.messages.Load()
	granted := make(chan error, 1)
	go func() {
		k, err := l.Lock(bounded(t), hashkey.Name("held"))
		if err == nil {
			err = k.Unlock()
		}
		granted <- err
	}()
	until(t, "it has asked", func() bool { return m.messages.Load() > sent })
	unlock(t, held)
	if err := <-granted; err != nil {
		t.Error(err)
	}
	unlock(t, keep)
	noTrace(t, watcher, db)
}

// Shared locks that follow each other on one session keep no other process from its
// exclusive one for ever.
func TestShareableReadersLetWritersIn(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	o := shareable
	o.Shared = true
	l, key := sessionlock.New(db).With(o), hashkey.Name("k")
	first := lock(t, l, key)
	unlock(t, lock(t, l, key))
	writer := make(chan error, 1)
	go func() {
		k, err := sessionlock.New(other).Lock(bounded(t), key)
		if err == nil {
			err = k.Unlock()
		}
		writer <- err
	}()
	until(t, "a reader is refused beside a writer that waits", func() bool {
		k, err := l.TryLock(t.Context(), key)
		if err == nil {
			unlock(t, k)
			return false
		}
		wantError(t, err, sessionlock.ErrNotAcquired)
		return true
	})
	notLost(t, first)
	unlock(t, first)
	if err := <-writer; err != nil {
		t.Error(err)
	}
	unlock(t, lock(t, l, key))
	noTrace(t, other, db)
}
