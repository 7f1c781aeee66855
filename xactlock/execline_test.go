package xactlock_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// wire is the way to a server that takes some time for each message, and what
// has gone there.
type wire struct {
	mu       sync.Mutex
	underWay int
	most     int
	sizes    []int
	order    []int
}

// send is a message that takes d, and does no more than that.
func (w *wire) send(d time.Duration, ids []int) []xactlock.Fate {
	w.mu.Lock()
	w.underWay++
	w.most = max(w.most, w.underWay)
	w.sizes = append(w.sizes, len(ids))
	w.order = append(w.order, ids...)
	w.mu.Unlock()
	time.Sleep(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underWay--
	return make([]xactlock.Fate, len(ids))
}

// Two messages are on their way at once. Those who come meanwhile share the
// next, more of them each time, in the order in which they came.
func TestExecsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		q := newQueue(t, 10)
		var messages atomic.Int64 // no two end at the same time
		l := q.Line(hashkey.Name("k"), func(ids []int) []xactlock.Fate {
			return w.send(time.Second+time.Duration(messages.Add(1))*time.Millisecond, ids)
		})
		var all sync.WaitGroup
		var want []int
		for i := range 100 {
			want = append(want, i)
			all.Go(func() {
				if err := l.Exec(t.Context(), i); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // until it stands in the line
		}
		all.Wait()
		if diff := cmp.Diff(want, w.order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if w.most != 2 {
			t.Errorf("%d messages at once, want 2", w.most)
		}
		if diff := cmp.Diff([]int{1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 6}, w.sizes); diff != "" {
			t.Errorf("sizes (-want +got):\n%s", diff)
		}
		if n := q.Lines(); n != 0 {
			t.Errorf("%d lines are left behind", n)
		}
	})
}

// Where a message takes long, none of those who come next share.
func TestExecsShareWhatIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		q := newQueue(t, 10)
		l := q.Line(hashkey.Name("k"), func(ids []int) []xactlock.Fate {
			return w.send(time.Duration(len(ids))*20*time.Millisecond, ids)
		})
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() {
				if err := l.Exec(t.Context(), i); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, n := range w.sizes {
			if n > 4 { // two take 20 ms longer than one, and that is quick; four are not
				t.Errorf("%d in one message, of which each takes 20 ms", n)
			}
		}
	})
}

// One whose lock is not to be had soon goes by itself, before those who came
// later, and while no other message is on its way.
func TestExecWhoseLockIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		heldUntil := time.Now().Add(10 * time.Second)
		q := newQueue(t, 10)
		waited := make(map[int]bool)
		l := q.Line(hashkey.Name("k"), func(ids []int) []xactlock.Fate {
			w.mu.Lock()
			alone, first := w.underWay == 0 && len(ids) == 1, waited[ids[0]]
			for _, id := range ids {
				waited[id] = true
			}
			w.mu.Unlock()
			if time.Now().Before(heldUntil) {
				if first && !alone {
					t.Errorf("%v goes next to others, though it has waited", ids)
				}
				if first {
					w.send(time.Until(heldUntil), ids)
					return []xactlock.Fate{xactlock.Done}
				}
				fates := w.send(25*time.Millisecond, ids)
				fates[0] = xactlock.Slow
				for i := range fates[1:] {
					fates[i+1] = xactlock.Again
				}
				return fates
			}
			return w.send(time.Millisecond, ids)
		})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				if err := l.Exec(t.Context(), i); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		if diff := cmp.Diff([]int{0, 1, 0}, w.order[:3]); diff != "" {
			t.Errorf("the first messages (-want +got):\n%s", diff)
		}
		if n := q.Lines(); n != 0 {
			t.Errorf("%d lines are left behind", n)
		}
	})
}

// moody is a server that is at times slow, and that stops at times in the
// middle of a message.
type moody struct {
	wire
	mu     sync.Mutex // guards the rest
	random *rand.Rand
	done   map[int]int
}

func (m *moody) serve(ids []int) []xactlock.Fate {
	m.mu.Lock()
	d := time.Duration(m.random.IntN(30)) * time.Millisecond
	if m.random.IntN(10) == 0 {
		d = 3 * time.Second // so that those whose ctx ends do not wait for it
	}
	failing := len(ids)
	if m.random.IntN(3) == 0 {
		failing = m.random.IntN(len(ids))
	}
	slow := m.random.IntN(2) == 0
	m.mu.Unlock()
	fates := m.send(d, ids)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, id := range ids {
		switch {
		case i < failing:
			m.done[id]++
		case i == failing && slow:
			fates[i] = xactlock.Slow
		default:
			fates[i] = xactlock.Again
		}
	}
	return fates
}

// caller returns when the next caller comes, and how long it stays.
func (m *moody) caller() (delay, limit time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delay, limit = time.Duration(m.random.IntN(100))*time.Millisecond, time.Hour
	if m.random.IntN(2) == 0 {
		limit = time.Duration(m.random.IntN(60)) * time.Millisecond
	}
	return delay, limit
}

// However many give up wherever they are, and whatever becomes of messages,
// those who stay get their turn, once.
func TestExecsLoseNoWakeUp(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			m := &moody{random: rand.New(rand.NewPCG(seed, 0)), done: make(map[int]int)}
			q := newQueue(t, 2+int(seed%4))
			l := q.Line(hashkey.Name("k"), m.serve)
			var all sync.WaitGroup
			stayed := make(map[int]bool)
			for i := range 100 {
				delay, limit := m.caller()
				stayed[i] = limit == time.Hour
				all.Go(func() {
					time.Sleep(delay)
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					if err := l.Exec(ctx, i); limit == time.Hour && err != nil {
						t.Errorf("seed %d: one who stayed got %v", seed, err)
					}
				})
			}
			all.Wait()
			time.Sleep(4 * time.Second) // until the messages are answered that everybody has left
			synctest.Wait()
			for i := range 100 {
				if m.done[i] > 1 || m.done[i] == 0 && stayed[i] {
					t.Errorf("seed %d: %d ran %d times; it stayed: %t", seed, i, m.done[i], stayed[i])
				}
			}
			if n := q.Lines(); n != 0 {
				t.Errorf("seed %d: %d lines are left behind", seed, n)
			}
		})
	}
}
