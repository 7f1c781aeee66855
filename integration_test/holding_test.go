package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// A short job that three machines start, whose clocks differ by a second, runs
// once, whether it gives up at once or is a candidate for a while.
func TestMinHold(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(ctx context.Context, l *sessionlock.Locker, job func()) error{
		"TryWithLock": func(ctx context.Context, l *sessionlock.Locker, job func()) error {
			return l.TryWithLock(ctx, hashkey.Name("job"), func(context.Context, *sql.Conn) error { job(); return nil })
		},
		"Lead": func(ctx context.Context, l *sessionlock.Locker, job func()) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return l.Lead(ctx, hashkey.Name("job"), func(context.Context) error { job(); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testMinHold(t, start)
		})
	}
}

func testMinHold(t *testing.T, start func(ctx context.Context, l *sessionlock.Locker, job func()) error) {
	db := newDB(t)
	var runs atomic.Int64
	var refused atomic.Int64
	var unlocked time.Duration
	pools := []*sql.DB{openSame(t, db), openSame(t, db), openSame(t, db)}
	for _, pool := range pools {
		warm(t, pool, 1) // on a busy machine to connect may take its second
	}
	err := parallel(len(pools), func(i int) error {
		l := sessionlock.New(pools[i]).With(sessionlock.Options{MinHold: 3 * time.Second})
		time.Sleep(time.Duration(i) * 500 * time.Millisecond)
		began := time.Now()
		err := start(t.Context(), l, func() { runs.Add(1) })
		if errors.Is(err, sessionlock.ErrNotAcquired) {
			refused.Add(1)
			return nil
		}
		unlocked = time.Since(began)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if runs.Load() != 1 || refused.Load() != 2 || unlocked > 2500*time.Millisecond {
		t.Errorf("it ran %d times, was refused %d times, and took %v", runs.Load(), refused.Load(), unlocked)
	}
	becomesFree(t, db, hashkey.Name("job"))
	noTrace(t, db)
}

// A statement whose ctx ends is cancelled where the pool is made for that, and
// the lock is held until fn returns. On another pool it takes the lock along, and
// fn is told.
func TestCancelStatements(t *testing.T) {
	t.Parallel()
	for _, cancels := range []bool{true, false} {
		t.Run(map[bool]string{true: "cancels", false: "cuts"}[cancels], func(t *testing.T) {
			t.Parallel()
			watcher := newDB(t)
			db := openSame(t, watcher)
			if cancels {
				db = openDB(t, dsnOf(t, watcher), sessionlock.CancelStatements)
			}
			key := hashkey.Name("k")
			err := sessionlock.New(db).WithLock(t.Context(), key, func(ctx context.Context, conn *sql.Conn) error {
				short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
				// The connection is the pool's own, with nothing around it.
				if err := conn.Raw(func(c any) error { _ = c.(*stdlib.Conn); return nil }); err != nil {
					return err
				}
				if _, err := conn.ExecContext(short, `select pg_sleep(60)`); err == nil {
					t.Error("the statement is executed")
				}
				if !cancels {
					select {
					case <-ctx.Done():
						return nil
					case <-time.After(patience):
						t.Error("fn is not told")
					}
				}
				_, err := sessionlock.New(watcher).TryLock(t.Context(), key)
				wantError(t, err, sessionlock.ErrNotAcquired)
				_, err = conn.ExecContext(ctx, `select 1`)
				return err
			})
			if cancels != (err == nil) || !cancels && !errors.Is(err, sessionlock.ErrLost) {
				t.Errorf("got %v", err)
			}
			noTrace(t, watcher, db)
		})
	}
}

// A cancel request that comes before the statement cancels nothing, and is made
// again: the session goes on, with its lock.
func TestCancelRequestComesFirst(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	var slow atomic.Bool
	db := openDB(t, dsnOf(t, watcher), sessionlock.CancelStatements, wrapping(func(c net.Conn) net.Conn {
		if slow.Load() { // that of a cancel request
			return c
		}
		return lateConn{c, &slow}
	}))
	key := hashkey.Name("k")
	err := sessionlock.New(db).WithLock(t.Context(), key, func(ctx context.Context, conn *sql.Conn) error {
		slow.Store(true)
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := conn.ExecContext(short, `select pg_sleep(60)`); err == nil {
			t.Error("the statement is executed")
		}
		slow.Store(false)
		_, err := conn.ExecContext(ctx, `select 1`)
		return err
	})
	if err != nil {
		t.Errorf("the session is gone: %v", err)
	}
	noTrace(t, watcher, db)
}

// lateConn is a connection whose messages take half a second more while it is slow.
type lateConn struct {
	net.Conn
	slow *atomic.Bool
}

func (c lateConn) Write(b []byte) (int, error) {
	if c.slow.Load() {
		time.Sleep(500 * time.Millisecond)
	}
	return c.Conn.Write(b)
}

// There are never more holders of session locks than slots, and a slot that is
// free is found.
func TestSessionSlots(t *testing.T) {
	t.Parallel()
	const slots, pools, callers, turns = 3, 3, 3, 6
	db := newDB(t)
	key := hashkey.Name("k")
	lockers := make([]*sessionlock.Locker, pools)
	for i := range lockers {
		lockers[i] = sessionlock.New(openSame(t, db))
	}
	var mu sync.Mutex
	inside, most := map[hashkey.Key]bool{}, 0
	full, all := make(chan struct{}), sync.Once{}
	err := parallel(pools*callers, func(i int) error {
		for range turns {
			err := lockers[i%pools].WithSlot(t.Context(), key, slots, func(ctx context.Context, _ *sql.Conn) error {
				slot := sessionlock.FromContext(ctx).Key()
				mu.Lock()
				if inside[slot] {
					t.Errorf("two holders of %v", slot)
				}
				inside[slot] = true
				if most = max(most, len(inside)); most == slots {
					all.Do(func() {
						err := lockers[(i+1)%pools].TryWithSlot(t.Context(), key, slots, func(context.Context, *sql.Conn) error {
							t.Error("there is one slot more")
							return nil
						})
						wantError(t, err, sessionlock.ErrNotAcquired)
						if n := heldLocks(t, db); n != slots {
							t.Errorf("%d slots are taken, want %d", n, slots)
						}
						close(full)
					})
				}
				mu.Unlock()
				select {
				case <-full: // once all slots are taken
				case <-time.After(patience):
					t.Error("a slot is never taken")
				}
				mu.Lock()
				delete(inside, slot)
				mu.Unlock()
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
	if most != slots {
		t.Errorf("%d holders at once, want %d", most, slots)
	}
	noTrace(t, db)
	err = lockers[0].WithSlot(t.Context(), key, 1, func(context.Context, *sql.Conn) error {
		return lockers[1].TryWithSlot(t.Context(), key, 1, func(context.Context, *sql.Conn) error { return nil })
	})
	wantError(t, err, sessionlock.ErrNotAcquired)
	if err := lockers[0].WithSlot(t.Context(), key, 0, func(context.Context, *sql.Conn) error { return nil }); err == nil {
		t.Error("no slots are no error")
	}
}

// Events tell a lock's story, and Lead's campaigns and terms, with the reasons.
func TestSessionEvents(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	other := openSame(t, db)
	key := hashkey.Name("k")
	var mu sync.Mutex
	var events []sessionlock.Event
	l := sessionlock.New(db).With(sessionlock.Options{Check: 20 * time.Millisecond, Observe: func(e sessionlock.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}})
	story := func() (kinds string) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if kinds += e.Kind.String() + " "; e.Key != key {
				t.Errorf("event %v of %v", e.Kind, e.Key)
			}
			if failed := e.Kind == sessionlock.Failed || e.Kind == sessionlock.Lost; failed != (e.Err != nil) {
				t.Errorf("%v with error %v", e.Kind, e.Err)
			}
		}
		events = nil
		return kinds
	}
	unlock(t, lock(t, l, key))
	if got := story(); got != "waiting granted released " {
		t.Errorf("a lock: %s", got)
	}
	k := lock(t, sessionlock.New(other), key)
	if _, err := l.TryLock(t.Context(), key); err == nil {
		t.Error("granted twice")
	}
	if got := story(); got != "waiting failed " {
		t.Errorf("a refused try: %s", got)
	}
	unlock(t, k)
	ctx, cancel := context.WithCancel(t.Context())
	terms := 0
	err := l.Lead(ctx, key, func(ctx context.Context) error {
		if terms++; terms == 2 {
			cancel()
			return nil
		}
		terminate(t, other, backend(t, sessionlock.FromContext(ctx)))
		<-ctx.Done()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if got := story(); got != "waiting granted lost waiting granted released " {
		t.Errorf("two terms: %s", got)
	}
	noTrace(t, db, other)
}

// Leaders that step down and campaign again take turns with the candidates of
// other processes, in every mode. Each leads until the other one campaigns.
func TestLeadersTakeTurns(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]sessionlock.Options{
		"queue": {}, "poll": {Poll: 100 * time.Millisecond}, "shareable": {Shareable: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const terms = 6
			db := newDB(t)
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			var mu sync.Mutex
			var leaders []int
			var campaigns [2]atomic.Bool
			_ = parallel(2, func(i int) error {
				o := o
				o.Observe = func(e sessionlock.Event) { campaigns[i].Store(e.Kind == sessionlock.Waiting) }
				l := sessionlock.New(openSame(t, db)).With(o)
				for ctx.Err() == nil {
					_ = l.Lead(ctx, hashkey.Name("k"), func(ctx context.Context) error {
						mu.Lock()
						leaders = append(leaders, i)
						over := len(leaders) == terms
						mu.Unlock()
						if over {
							cancel()
						}
						for ctx.Err() == nil && !campaigns[1-i].Load() {
							time.Sleep(time.Millisecond)
						}
						return nil
					})
				}
				return nil
			})
			again := 0
			for i := range leaders[1:] {
				if leaders[i+1] == leaders[i] {
					again++
				}
			}
			if again > 1 { // a slow machine may have kept the other one from asking
				t.Errorf("the leaders were %v", leaders)
			}
			noTrace(t, db)
		})
	}
}

// A leader that steps down waits with its next campaign for as long as candidates
// sleep between two questions, also where that is longer than a slice.
func TestLeaderLetsPollersGoFirst(t *testing.T) {
	t.Parallel()
	const poll = 1500 * time.Millisecond
	db := newDB(t)
	l := sessionlock.New(db).With(sessionlock.Options{Poll: poll})
	var ended time.Time
	for term := range 2 {
		err := l.Lead(t.Context(), hashkey.Name("k"), func(context.Context) error {
			if d := time.Since(ended); term > 0 && d < poll {
				t.Errorf("the next term begins after %v", d)
			}
			ended = time.Now()
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	noTrace(t, db)
}

// A closed pool ends Lead, and what kept a candidate from asking is in the error
// of a campaign that ctx ends.
func TestLeadSaysWhy(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	closed := openSame(t, db)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sessionlock.New(closed).Lead(bounded(t), hashkey.Name("k"), func(context.Context) error { return nil }); err == nil {
		t.Error("a closed pool is no error")
	}
	away := openUnchecked(t, "postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	network := (*net.OpError)(nil)
	for name, end := range map[string]sessionlock.EventKind{
		"as a campaign has failed": sessionlock.Failed,
		"as the next one begins":   sessionlock.Waiting,
	} {
		ctx, cancel := context.WithCancel(bounded(t))
		failed := false
		l := sessionlock.New(away).With(sessionlock.Options{Observe: func(e sessionlock.Event) {
			if e.Kind == sessionlock.Failed && ctx.Err() == nil && !errors.As(e.Err, &network) {
				t.Errorf("%s: told %v, want an error that says that the connection was refused", name, e.Err)
			}
			failed = failed || e.Kind == sessionlock.Failed
			if e.Kind == end && failed {
				cancel()
			}
		}})
		err := l.Lead(ctx, hashkey.Name("k"), func(context.Context) error { return nil })
		if !errors.Is(err, sessionlock.ErrNotAcquired) || !errors.Is(err, context.Canceled) || !errors.As(err, &network) {
			t.Errorf("%s: got %v, want ErrNotAcquired with ctx's error and that the connection was refused", name, err)
		}
	}
}

// openUnchecked opens a pool that need not work.
func openUnchecked(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A session that ends before MinHold is over gives its connection back then, and the
// loss is told.
func TestMinHoldLost(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	o := sessionlock.Options{Check: quick.Check, MinHold: time.Hour}
	told := make(chan sessionlock.Event, 3)
	o.Observe = func(e sessionlock.Event) { told <- e }
	k := lock(t, sessionlock.New(db).With(o), hashkey.Name("k"))
	pid := backend(t, k)
	unlock(t, k)
	terminate(t, other, pid)
	for kind := sessionlock.Waiting; kind != sessionlock.Lost; {
		select {
		case e := <-told:
			kind = e.Kind
		case <-time.After(patience):
			t.Fatal("the loss is not told")
		}
	}
	noTrace(t, other, db)
}
