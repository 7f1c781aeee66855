package sessionlock

import (
	"context"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
)

// terms is when the lock was free, or will be, after the terms of leaders that this
// process had.
type terms struct {
	mu   sync.Mutex
	last map[hashkey.Key]time.Time // guarded by mu
}

// ended notes the end of a term, whose lock is free by now, or at a later time.
func (t *terms) ended(key hashkey.Key, free time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, when := range t.last {
		if time.Since(when) > time.Hour {
			delete(t.last, other)
		}
	}
	if t.last == nil {
		t.last = make(map[hashkey.Key]time.Time)
	}
	if t.last[key] = time.Now(); free.After(t.last[key]) {
		t.last[key] = free
	}
}

// letOthers waits until the candidates of other processes have had the time to
// ask for the lock, if this process has it still or had it a moment ago: each asks
// within the pause between two of its questions. It reports whether ctx let it.
func (t *terms) letOthers(ctx context.Context, key hashkey.Key, pause time.Duration) bool {
	const more = 200 * time.Millisecond
	t.mu.Lock()
	last, ok := t.last[key]
	t.mu.Unlock()
	if wait := time.Until(last.Add(pause + more)); ok && wait > 0 {
		return acquire.Sleep(ctx, wait)
	}
	return ctx.Err() == nil
}
