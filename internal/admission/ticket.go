package admission

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"
)

// Ticket is where one call stands in the queue. The zero Ticket stands nowhere.
type Ticket struct {
	queue *Queue
	lines []Line // of which it is a head
	part  *semaphore.Weighted

	first   bool                // no other call was in any of the lines
	head    chan struct{}       // closed when it is a head of the line that it entered last
	offered *semaphore.Weighted // guarded by the queue's mu: the quota, for an Exec
}

// Enter makes the call a head of all lines, one after the other in their order,
// which must be the same for all calls, so that no two wait for each other. If
// ctx ends first, it returns ctx's error, and the call is in no line.
func (t *Ticket) Enter(ctx context.Context, q *Queue, lines []Line) error {
	t.queue, t.first = q, true
	for i, id := range lines {
		if err := q.enter(ctx, id, t); err != nil {
			t.Granted()
			return err
		}
		t.lines = lines[:i+1]
	}
	return nil
}

// InLine reports whether the call is a head of its lines.
func (t *Ticket) InLine() bool { return len(t.lines) > 0 }

// First reports whether no other call was in any of the lines.
func (t *Ticket) First() bool { return t.first }

// Granted lets the next call in line ask. The part of the quota is kept until
// End.
func (t *Ticket) Granted() {
	for _, id := range t.lines {
		t.queue.leave(id, t)
	}
	t.lines = nil
}

// End leaves the queue altogether.
func (t *Ticket) End() {
	t.Unreserve() // first: the next Exec in line may need it
	t.Granted()
}

// Unreserve gives the part of the quota back, if the call has one.
func (t *Ticket) Unreserve() {
	if t.part != nil {
		t.part.Release(1)
		t.part = nil
	}
}

// Took tells the line of an Exec how long its message took.
func (t *Ticket) Took(d time.Duration) {
	for _, id := range t.lines {
		t.queue.took(id, d)
	}
}

// accept takes a part of the quota for an Exec. The caller has the queue's mu.
func (t *Ticket) accept() bool {
	if t.part == nil && t.offered.TryAcquire(1) {
		t.part = t.offered
	}
	return t.part != nil
}

// TryReserve reports whether the call may wait on the server: whether it has a
// part of the quota, or gets one at once.
func (t *Ticket) TryReserve() bool {
	if t.part != nil {
		return true
	}
	if half := t.queue.half(); half.TryAcquire(1) {
		t.part = half
	}
	return t.part != nil
}

// patience is how long a call waits for a part of the quota before it asks the
// server again: all of it may be taken for long by waiters for other keys, while
// this call's key has become free.
const patience = 100 * time.Millisecond

// Reserve waits for a part of the quota, but not for ever, and reports whether
// the call may wait on the server. A call that found the quota taken may do so in
// overtime, one at a time: another process may keep its key busy, so that it
// would be refused whenever it asks.
func (t *Ticket) Reserve(ctx context.Context) bool {
	if t.TryReserve() {
		return true
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	half := t.queue.half()
	if half.Acquire(bounded, 1) == nil {
		t.part = half
	} else if ctx.Err() == nil && t.queue.overtime.TryAcquire(1) {
		t.part = t.queue.overtime
	}
	return t.part != nil
}

// Waited is called after each slice of a wait on the server. Overtime ends with
// its slice, for another call to have it.
func (t *Ticket) Waited() {
	if t.queue != nil && t.part == t.queue.overtime {
		t.Unreserve()
	}
}
