package sessionlock

import (
	"container/list"
	"context"
	"sync"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// turns excludes the locks of one session from each other, as the server does
// for locks of different sessions: first come, first served, and shared ones at
// the same time. The zero turns is ready for use.
type turns struct {
	mu   sync.Mutex
	keys map[hashkey.Key]*turn // guarded by mu; a key that no call wants is not there
}

// turn is the holders of one key, and the calls that want it.
type turn struct {
	shared    int  // holders that share it
	exclusive bool // one that does not
	waiting   list.List
}

type waiter struct {
	shared  bool
	granted chan struct{}
}

// bare returns key without its name, which does not count.
func bare(key hashkey.Key) hashkey.Key {
	if class, object, ok := key.Pair(); ok {
		return hashkey.Pair(class, object)
	}
	return hashkey.Int64(key.Int64())
}

// take waits for key. If ctx ends first, or if try is true and the key is not
// free, it reports false.
func (t *turns) take(ctx context.Context, key hashkey.Key, shared, try bool) bool {
	key = bare(key)
	t.mu.Lock()
	k := t.keys[key]
	if k == nil {
		k = new(turn)
		if t.keys == nil {
			t.keys = make(map[hashkey.Key]*turn)
		}
		t.keys[key] = k
	}
	if k.waiting.Len() == 0 && k.grant(shared) {
		t.mu.Unlock()
		return true
	}
	if try {
		t.mu.Unlock()
		return false
	}
	w := &waiter{shared: shared, granted: make(chan struct{})}
	place := k.waiting.PushBack(w)
	t.mu.Unlock()
	select {
	case <-w.granted:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-w.granted: // just now
		t.leave(key, k, shared)
	default:
		k.waiting.Remove(place)
		t.next(key, k)
	}
	return false
}

// grant gives the key to one more, if that may be.
func (k *turn) grant(shared bool) bool {
	switch {
	case k.exclusive, !shared && k.shared > 0:
		return false
	case shared:
		k.shared++
	default:
		k.exclusive = true
	}
	return true
}

// give gives key back.
func (t *turns) give(key hashkey.Key, shared bool) {
	key = bare(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(key, t.keys[key], shared)
}

func (t *turns) leave(key hashkey.Key, k *turn, shared bool) {
	if shared {
		k.shared--
	} else {
		k.exclusive = false
	}
	t.next(key, k)
}

// next gives the key to the calls that are next.
func (t *turns) next(key hashkey.Key, k *turn) {
	for k.waiting.Len() > 0 {
		front := k.waiting.Front()
		w := front.Value.(*waiter)
		if !k.grant(w.shared) {
			return
		}
		k.waiting.Remove(front)
		close(w.granted)
	}
	if k.shared == 0 && !k.exclusive {
		delete(t.keys, key)
	}
}
