package xactlock

import (
	"context"
	"time"
)

// lineIDs returns the lines of the call's keys.
func (c *call) lineIDs() []lineID {
	ids := c.oneLine[:0]
	for _, key := range c.keys {
		ids = append(ids, newLineID(key, c.opts.Shared, int64(max(1, c.opts.MaxWaiters))))
	}
	return ids
}

// nobodyQueues reports whether all the call's lines are empty. Readers only
// queue behind others who do: many may be granted at once, where of writers it
// can only be one.
func (c *call) nobodyQueues() bool {
	for _, id := range c.lineIDs() {
		if !c.queue.empty(id) {
			return false
		}
	}
	return true
}

// lineUp waits until the call is head of its lines.
func (c *call) lineUp(ctx context.Context) error {
	defer c.countQueued()()
	return c.place.enter(ctx, c.lineIDs())
}

func (c *call) waitQuota(ctx context.Context) bool {
	defer c.countQueued()()
	return c.place.waitQuota(ctx)
}

// countQueued begins to count time spent in the queue, for Observe.
func (c *call) countQueued() (stop func()) {
	if c.opts.Observe == nil {
		return func() {}
	}
	began := time.Now()
	return func() { c.queued += time.Since(began) }
}
