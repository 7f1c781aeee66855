package admission_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/admission"
)

// fakeServer is one lock on a server, whose waiters wait in order, each with a
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

// newQueue returns the queue of a pool of the given size, 0 for one without a
// limit.
func newQueue(size int) *admission.Queue { return admission.NewQueue(func() int { return size }) }

// lines returns the lines of keys.
func lines(shared bool, heads int, keys ...hashkey.Key) []admission.Line {
	var all []admission.Line
	for _, key := range keys {
		_, _, pair := key.Pair()
		all = append(all, admission.Line{Number: key.Int64(), Pair: pair, Shared: shared, Heads: heads})
	}
	return all
}

// turn is a call as the queue sees it: line up, wait on the server, hold, end.
func turn(ctx context.Context, q *admission.Queue, s *fakeServer, key hashkey.Key, hold func()) error {
	var ticket admission.Ticket
	defer ticket.End()
	if err := ticket.Enter(ctx, q, lines(false, 1, key)); err != nil {
		return err
	}
	for !ticket.Reserve(ctx) {
		ticket.Asked()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := s.wait(ctx); err != nil {
		return err
	}
	defer s.unlock()
	ticket.Granted()
	hold()
	return nil
}

func TestIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(10), newFakeServer()
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
func TestHandsOver(t *testing.T) {
	for _, heads := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			q, s := newQueue(0), newFakeServer()
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					var ticket admission.Ticket
					defer ticket.End()
					if err := ticket.Enter(t.Context(), q, lines(false, heads, hashkey.Name("k"))); err != nil {
						t.Error(err)
					}
					if err := s.wait(t.Context()); err != nil {
						t.Error(err)
					}
					ticket.Granted()
					time.Sleep(time.Second)
					s.unlock()
				})
			}
			for left := 19; left >= 0; left-- {
				synctest.Wait()
				if n := s.now(); n != min(heads, left) {
					t.Errorf("%d wait on the server while one works and %d are to come, want %d", n, left, min(heads, left))
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
func TestLosesNoWakeUp(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			q := newQueue(4)
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
						t.Errorf("seed %d: a call that stayed got %v", seed, err)
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

var keys atomic.Int64

// newcomer returns a head of a line of its own.
func newcomer(t *testing.T, q *admission.Queue) *admission.Ticket {
	t.Helper()
	ticket := new(admission.Ticket)
	if err := ticket.Enter(t.Context(), q, lines(false, 1, hashkey.Int64(keys.Add(1)))); err != nil {
		t.Fatal(err)
	}
	return ticket
}

// Waiters for all keys together leave half of the pool alone.
func TestSeats(t *testing.T) {
	for size, half := range map[int]int{8: 4, 3: 1, 1: 1, 0: 4} {
		q := newQueue(size)
		tickets := []*admission.Ticket{newcomer(t, q)}
		for tickets[len(tickets)-1].TryReserve() {
			tickets = append(tickets, newcomer(t, q))
		}
		if n := len(tickets) - 1; n != half {
			t.Errorf("a pool of %d has %d seats, want %d", size, n, half)
		}
		late := tickets[half]
		tickets[0].End()
		if !late.TryReserve() || newcomer(t, q).TryReserve() {
			t.Errorf("a pool of %d: want one seat when one call has ended", size)
		}
	}
}

// However many keys are busy, those who wait and those who hold what they waited
// for use half of the pool.
func TestBusyKeysUseHalfOfThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, keys, callers, turns = 12, 12, 5, 10
		q := newQueue(size)
		var use, most int
		var mu sync.Mutex
		using := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			use += n
			most = max(most, use)
		}
		var locks [keys]chan struct{}
		for i := range locks {
			locks[i] = make(chan struct{}, 1)
		}
		turn := func(key int) {
			ticket := new(admission.Ticket)
			defer ticket.End()
			if err := ticket.Enter(t.Context(), q, lines(false, 1, hashkey.Int64(int64(key)))); err != nil {
				t.Error(err)
			}
			for !ticket.Reserve(t.Context()) {
				ticket.Asked()
			}
			using(1)
			defer using(-1)
			locks[key] <- struct{}{}
			defer func() { <-locks[key] }()
			ticket.Granted()
			time.Sleep(3 * time.Millisecond)
		}
		var all sync.WaitGroup
		for i := range keys * callers {
			all.Go(func() {
				for range turns {
					turn(i % keys)
				}
			})
		}
		all.Wait()
		if most != size/2 {
			t.Errorf("at most %d connections were in use, want %d", most, size/2)
		}
	})
}

// While all seats are with holders for long, one call may wait.
func TestSeatBesideHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(4)
		first, second := newcomer(t, q), newcomer(t, q)
		if !first.TryReserve() || !second.TryReserve() {
			t.Fatal("no seat")
		}
		first.Granted()
		second.Granted()
		if newcomer(t, q).TryReserve() {
			t.Error("a seat beside holders who have just come")
		}
		extra, late := newcomer(t, q), newcomer(t, q)
		if !extra.Reserve(t.Context()) {
			t.Error("no seat beside holders who stay")
		}
		if late.Reserve(t.Context()) {
			t.Error("two seats beside holders")
		}
		late.Asked()
		extra.Granted() // the seat is not for holders
		if !late.Reserve(t.Context()) {
			t.Error("a holder has kept the seat for waiters")
		}
		first.End()
		late.End()
		if !newcomer(t, q).TryReserve() {
			t.Error("no seat when a holder has ended")
		}
	})
}

// Those who wait for a seat have it in turn, a slice each.
func TestSeatsGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, rounds = 5, 3
		q := newQueue(2) // one seat
		var order, want []int
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				ticket := newcomer(t, q)
				defer ticket.End()
				for range rounds {
					for !ticket.Reserve(t.Context()) {
						ticket.Asked()
					}
					order = append(order, i)
					time.Sleep(time.Second)
					ticket.Waited()
				}
			})
			synctest.Wait()
		}
		all.Wait()
		for i := range calls * rounds {
			want = append(want, i%calls)
		}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

// A call that finds no seat for a while asks the server all the same, one call
// at a time, and first come, first served.
func TestAskers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 5
		q := newQueue(2)
		holder, extra := newcomer(t, q), newcomer(t, q)
		if !holder.TryReserve() {
			t.Fatal("no seat")
		}
		holder.Granted()
		if !extra.Reserve(t.Context()) {
			t.Fatal("no seat beside the holder")
		}
		var order, want []int
		var asking, most int
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				ticket := newcomer(t, q)
				defer ticket.End()
				if began := time.Now(); ticket.Reserve(t.Context()) || time.Since(began) == 0 {
					t.Error("want no seat, after some time")
				}
				order = append(order, i)
				asking++
				most = max(most, asking)
				time.Sleep(time.Second)
				asking--
				ticket.Asked()
			})
			want = append(want, i)
			time.Sleep(time.Millisecond) // their patience ends one after the other
		}
		time.Sleep(calls * time.Second)
		holder.End()
		extra.End()
		all.Wait()
		if diff := cmp.Diff(want, order); diff != "" || most != 1 {
			t.Errorf("%d asked at once, in the order (-want +got):\n%s", most, diff)
		}
		if n := q.Lines(); n != 0 {
			t.Errorf("%d lines are left behind", n)
		}
	})
}

// A call whose ctx ends while it queues for a seat leaves nothing behind.
func TestGivesUpASeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		first, gone, late := newcomer(t, q), newcomer(t, q), newcomer(t, q)
		if !first.TryReserve() {
			t.Fatal("no seat")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if gone.Reserve(ctx) {
			t.Error("a seat for two")
		}
		gone.End()
		first.End()
		if !late.TryReserve() {
			t.Error("the seat is not free")
		}
	})
}

// Readers and writers stand in lines of their own, as do the two key spaces.
func TestLinesAreApart(t *testing.T) {
	q := newQueue(0)
	for _, shared := range []bool{false, true} {
		for _, key := range []hashkey.Key{hashkey.Int64(1<<32 | 2), hashkey.Pair(1, 2)} {
			var ticket admission.Ticket
			defer ticket.End()
			if err := ticket.Enter(t.Context(), q, lines(shared, 1, key)); err != nil || !ticket.First() {
				t.Errorf("shared %t, %v: first %t, %v", shared, key, ticket.First(), err)
			}
		}
	}
	if n := q.Lines(); n != 4 {
		t.Errorf("%d lines, want 4", n)
	}
}

// A call for several keys waits for them in order, and gives all of them up if
// ctx ends on the way.
func TestSeveralLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(0)
		a, b := hashkey.Int64(1), hashkey.Int64(2)
		var first, second, both admission.Ticket
		if err := second.Enter(t.Context(), q, lines(false, 1, b)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := both.Enter(ctx, q, lines(false, 1, a, b)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		both.End()
		if err := first.Enter(t.Context(), q, lines(false, 1, a)); err != nil || !first.First() {
			t.Errorf("the line of a: first %t, %v", first.First(), err)
		}
		first.End()
		second.End()
		if n := q.Lines(); n != 0 {
			t.Errorf("%d lines are left behind", n)
		}
	})
}

// Of the Execs for one key, half of the pool is under way, in order; while
// others have the seats, or the last message was slow, it is one.
func TestExecs(t *testing.T) {
	for name, test := range map[string]struct {
		others int // calls that have a seat
		took   time.Duration
		want   int
	}{
		"quick":     {0, time.Millisecond, 4},
		"no seat":   {4, time.Millisecond, 1},
		"two seats": {2, time.Millisecond, 3},
		"slow":      {0, time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(8)
				var others []*admission.Ticket
				for i := range test.others {
					ticket := new(admission.Ticket)
					if err := ticket.Enter(t.Context(), q, lines(false, 1, hashkey.Int64(int64(i)))); err != nil || !ticket.TryReserve() {
						t.Fatal("no seat")
					}
					others = append(others, ticket)
				}
				line := []admission.Line{{Number: 7, Exec: true, Heads: q.Half()}}
				var underWay, most int
				var order, want []int
				var mu sync.Mutex
				var all sync.WaitGroup
				run := func(i int, took time.Duration) {
					var ticket admission.Ticket
					defer ticket.End()
					if err := ticket.Enter(t.Context(), q, line); err != nil {
						t.Error(err)
					}
					mu.Lock()
					order = append(order, i)
					underWay++
					most = max(most, underWay)
					mu.Unlock()
					time.Sleep(time.Second)
					ticket.Took(took)
					mu.Lock()
					underWay--
					mu.Unlock()
				}
				all.Go(func() { run(0, time.Millisecond) })
				synctest.Wait()
				for i := range 20 {
					all.Go(func() {
						run(i+1, test.took)
					})
					synctest.Wait()
					want = append(want, i)
				}
				want = append(want, 20)
				time.Sleep(1500 * time.Millisecond)
				if test.took > 100*time.Millisecond {
					time.Sleep(time.Second) // the first to be slow are over
				}
				mu.Lock()
				most = underWay
				mu.Unlock()
				all.Wait()
				if most != test.want {
					t.Errorf("%d at once, want %d", most, test.want)
				}
				if diff := cmp.Diff(want, order); diff != "" && most == 1 && test.took < time.Second {
					t.Errorf("order (-want +got):\n%s", diff)
				}
				for _, ticket := range others {
					ticket.End()
				}
				if n := q.Lines(); n != 0 {
					t.Errorf("%d lines are left behind", n)
				}
			})
		})
	}
}
