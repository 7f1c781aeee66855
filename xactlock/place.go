package xactlock

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"
)

// place is where one call stands in the queue.
type place struct {
	queue *queue
	lines []lineID // those it is a head of, a prefix of what enter was given
	quota *semaphore.Weighted
	first bool // there was nobody else in any of the lines
}

// enter makes the call head of all its lines, one after the other in the order
// of its sorted keys, so that no two calls wait for each other.
func (p *place) enter(ctx context.Context, ids []lineID) error {
	p.first = true
	for i, id := range ids {
		first, err := p.queue.enter(ctx, id)
		if err != nil {
			return err
		}
		p.lines = ids[:i+1]
		p.first = p.first && first
	}
	return nil
}

// inLine reports whether the call is head of its lines.
func (p *place) inLine() bool { return len(p.lines) > 0 }

// granted lets the next in line ask. The quota is kept until the end.
func (p *place) granted() {
	for _, id := range p.lines {
		p.queue.leave(id)
	}
	p.lines = nil
}

// end leaves the queue altogether.
func (p *place) end() {
	p.granted()
	if p.quota != nil {
		p.quota.Release(1)
		p.quota = nil
	}
}

// tryQuota gets a part of the quota if there is one at once.
func (p *place) tryQuota() bool {
	if p.quota != nil {
		return true
	}
	half := p.queue.half()
	if half != nil && !half.TryAcquire(1) {
		return false
	}
	p.quota = half
	return true
}

// patienceForQuota is how long a call waits for a part of the quota before it
// asks the server again: all of it may be taken for long by waiters for other
// keys, while this call's key has become free.
const patienceForQuota = 100 * time.Millisecond

// waitQuota waits for a part of the quota, but not for ever, and reports
// whether it got one.
func (p *place) waitQuota(ctx context.Context) bool {
	if p.tryQuota() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, patienceForQuota)
	defer cancel()
	half := p.queue.half()
	if half != nil && half.Acquire(ctx, 1) != nil {
		return false
	}
	p.quota = half
	return true
}
