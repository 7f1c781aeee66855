package sessionlock

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Turns go to who came first. Readers that come one after the other have theirs
// together, a reader behind a writer waits, and a try gets nothing while a call
// waits.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		var all sync.WaitGroup
		key := hashkey.Name("k")
		began := time.Now()
		for _, caller := range []struct {
			name   string
			shared bool
			since  time.Duration // in the end; each holds its turn for a second
		}{
			{"writer", false, 0},
			{"first reader", true, time.Second},
			{"second reader", true, time.Second},
			{"second writer", false, 2 * time.Second},
			{"third reader", true, 3 * time.Second},
			{"third writer", false, 4 * time.Second},
		} {
			all.Go(func() {
				if !turns.take(t.Context(), key, caller.shared, false) {
					t.Errorf("the %s has no turn", caller.name)
				}
				if since := time.Since(began); since != caller.since {
					t.Errorf("the %s has its turn after %v, want %v", caller.name, since, caller.since)
				}
				time.Sleep(time.Second)
				turns.give(key, caller.shared)
			})
			synctest.Wait() // until the caller waits
		}
		time.Sleep(1500 * time.Millisecond)
		if turns.take(t.Context(), key, true, true) {
			t.Error("a reader's try is granted beside readers, while a writer waits")
		}
		all.Wait()
	})
}

// A caller whose ctx ends has no turn, and stands in no other's way.
func TestTurnsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		var all sync.WaitGroup
		key := hashkey.Name("k")
		turns.take(t.Context(), key, true, false)
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if turns.take(ctx, key, false, false) {
				t.Error("a writer has its turn beside a reader")
			}
		})
		synctest.Wait()
		began := time.Now()
		all.Go(func() {
			if !turns.take(t.Context(), key, true, false) || time.Since(began) != time.Second {
				t.Errorf("the reader behind the writer that gives up has its turn after %v", time.Since(began))
			}
			turns.give(key, true)
		})
		all.Wait()
		turns.give(key, true)
		if n := len(turns.keys); n > 0 {
			t.Errorf("%d keys are left behind", n)
		}
	})
}

// A caller whose turn comes just when its ctx has ended gives it back.
func TestTurnJustThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		key := hashkey.Int64(7)
		turns.take(t.Context(), key, false, false)
		ctx, cancel := context.WithCancel(t.Context())
		taken := make(chan bool)
		go func() { taken <- turns.take(ctx, key, false, false) }()
		synctest.Wait()
		turns.mu.Lock() // the caller has noticed the end of its ctx, and waits
		cancel()
		turns.leave(key, turns.keys[key], false)
		turns.mu.Unlock()
		if <-taken {
			t.Error("a caller whose ctx has ended has its turn")
		}
		if n := len(turns.keys); n > 0 {
			t.Errorf("%d keys are left behind", n)
		}
	})
}

// A key's name does not count: the server sees a number.
func TestTurnsOfOneNumber(t *testing.T) {
	for _, named := range []hashkey.Key{hashkey.Name("k"), hashkey.Namespace("n").Name("k"), hashkey.Pair(1, 2)} {
		same := hashkey.Int64(named.Int64())
		if class, object, ok := named.Pair(); ok {
			same = hashkey.Pair(class, object)
		}
		var turns turns
		if !turns.take(t.Context(), named, false, true) || turns.take(t.Context(), same, false, true) {
			t.Errorf("%v and %v are granted at once", named, same)
		}
		turns.give(same, false)
		if !turns.take(t.Context(), named, false, true) {
			t.Errorf("%v is not free", named)
		}
	}
}
