package xactlock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// fakeServer is one lock on a server: who waits for it waits in order, with a
// connection.
type fakeServer struct {
	lock    chan struct{} // holds a token while the lock is free
	mu      sync.Mutex
	waiting int
	most    int
}

func newFakeServer() *fakeServer {
	s := &fakeServer{lock: make(chan struct{}, 1)}
	s.lock <- struct{}{}
	return s
}

func (s *fakeServer) wait(ctx context.Context) error {
	s.count(1)
	defer s.count(-1)
	select {
	case <-s.lock:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *fakeServer) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
	s.most = max(s.most, s.waiting)
}

// now returns how many wait.
func (s *fakeServer) now() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

func (s *fakeServer) unlock() { s.lock <- struct{}{} }

// newQueue returns a queue over a pool of the given size, which no connection
// is ever asked of.
func newQueue(t *testing.T, poolSize int) xactlock.Queue {
	t.Helper()
	db := sql.OpenDB(noConnector{})
	db.SetMaxOpenConns(poolSize)
	t.Cleanup(func() { db.Close() })
	return xactlock.NewQueue(db)
}

type noConnector struct{}

func (noConnector) Connect(context.Context) (driver.Conn, error) {
	return nil, errors.New("no connection in this test")
}
func (noConnector) Driver() driver.Driver { return nil }

// turn is a call as the queue sees it: line up, wait on the server, hold, end.
func turn(ctx context.Context, q xactlock.Queue, s *fakeServer, key hashkey.Key, hold func()) error {
	p := q.Place()
	defer p.End()
	if err := p.Enter(ctx, false, 1, key); err != nil {
		return err
	}
	for !p.WaitQuota(ctx) {
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := s.wait(ctx); err != nil {
		return err
	}
	defer s.unlock()
	p.Granted()
	hold()
	return nil
}

func TestQueueIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(t, 10), newFakeServer()
		var order, want []int
		var all sync.WaitGroup
		for i := range 50 {
			want = append(want, i)
			all.Go(func() {
				_ = turn(t.Context(), q, s, hashkey.Name("k"), func() {
					order = append(order, i)
					time.Sleep(time.Second)
				})
			})
			synctest.Wait() // until it stands in the line
		}
		all.Wait()
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if s.most != 1 {
			t.Errorf("%d at once waited on the server, want 1", s.most)
		}
		if n := q.Lines(); n != 0 {
			t.Errorf("%d lines are left behind", n)
		}
	})
}

// While the holder works, exactly one waits on the server, so that the
// hand-over costs nothing; and MaxWaiters moves that number.
func TestQueueHandsOver(t *testing.T) {
	for _, heads := range []int64{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			q, s := newQueue(t, 0), newFakeServer()
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					p := q.Place()
					defer p.End()
					if err := p.Enter(t.Context(), false, heads, hashkey.Name("k")); err != nil {
						t.Error(err)
					}
					if err := s.wait(t.Context()); err != nil {
						t.Error(err)
					}
					p.Granted()
					time.Sleep(time.Second)
					s.unlock()
				})
			}
			for left := 19; left >= 0; left-- {
				synctest.Wait()
				if n := s.now(); n != min(int(heads), left) {
					t.Errorf("%d wait on the server while one works and %d are to come, want %d", n, left, min(int(heads), left))
				}
				time.Sleep(time.Second)
			}
			all.Wait()
			if n := q.Lines(); n != 0 {
				t.Errorf("%d lines are left behind", n)
			}
		})
	}
}

// However many give up wherever they stand, those who stay get their turn.
func TestQueueLosesNoWakeUp(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			q := newQueue(t, 4)
			servers := []*fakeServer{newFakeServer(), newFakeServer(), newFakeServer()}
			keys := []hashkey.Key{hashkey.Name("a"), hashkey.Name("b"), hashkey.Pair(1, 2)}
			var all sync.WaitGroup
			for range 60 {
				i, delay := random.IntN(3), time.Duration(random.IntN(20))*time.Millisecond
				limit := time.Hour
				if random.IntN(2) == 0 {
					limit = time.Duration(random.IntN(40)) * time.Millisecond
				}
				all.Go(func() {
					time.Sleep(delay)
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					err := turn(ctx, q, servers[i], keys[i], func() { time.Sleep(3 * time.Millisecond) })
					if limit == time.Hour && err != nil {
						t.Errorf("seed %d: one who stayed got %v", seed, err)
					}
				})
			}
			all.Wait()
			if n := q.Lines(); n != 0 {
				t.Errorf("seed %d: %d lines are left behind", seed, n)
			}
		})
	}
}

// Waiters for all keys together leave half of the pool alone; one whose key
// does not come up asks again from time to time.
func TestQueueQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 8)
		var places []*xactlock.Place
		for i := range 4 {
			p := q.Place()
			if err := p.Enter(t.Context(), false, 1, hashkey.Int64(int64(i))); err != nil {
				t.Fatal(err)
			}
			if !p.WaitQuota(t.Context()) {
				t.Fatalf("no quota for waiter %d of 4 on a pool of 8", i+1)
			}
			p.Granted() // who holds what it waited for still counts
			places = append(places, p)
		}
		fifth := q.Place()
		defer fifth.End()
		if err := fifth.Enter(t.Context(), false, 1, hashkey.Int64(5)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if fifth.WaitQuota(t.Context()) {
			t.Error("quota for a fifth waiter on a pool of 8")
		}
		if waited := time.Since(began); waited == 0 || waited > time.Second {
			t.Errorf("the fifth would ask again after %v", waited)
		}
		places[0].End()
		if !fifth.WaitQuota(t.Context()) {
			t.Error("no quota for the fifth when one of four has ended")
		}
		for _, p := range places {
			p.End()
		}
	})
}

// Readers and writers stand in lines of their own, as do the two key spaces.
func TestQueueLinesAreApart(t *testing.T) {
	q := newQueue(t, 0)
	for _, shared := range []bool{false, true} {
		for _, key := range []hashkey.Key{hashkey.Int64(1<<32 | 2), hashkey.Pair(1, 2)} {
			p := q.Place()
			defer p.End()
			if err := p.Enter(t.Context(), shared, 1, key); err != nil || !p.First() {
				t.Errorf("shared %t, %v: first %t, %v", shared, key, p.First(), err)
			}
		}
	}
	if n := q.Lines(); n != 4 {
		t.Errorf("%d lines, want 4", n)
	}
}

// Who wants several keys waits for them in order, and gives all of them up if
// ctx ends on the way.
func TestQueueOfSeveralKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 0)
		a, b := hashkey.Int64(1), hashkey.Int64(2)
		second := q.Place()
		if err := second.Enter(t.Context(), false, 1, b); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		both := q.Place()
		if err := both.Enter(ctx, false, 1, a, b); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		both.End()
		first := q.Place()
		if err := first.Enter(t.Context(), false, 1, a); err != nil || !first.First() {
			t.Errorf("the line of a: first %t, %v", first.First(), err)
		}
		first.End()
		second.End()
		if n := q.Lines(); n != 0 {
			t.Errorf("%d lines are left behind", n)
		}
	})
}
