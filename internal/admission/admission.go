// Package admission decides which calls may use a connection of a pool to wait
// for a lock. The others wait in memory, without one.
//
// For each key there is a line. Its heads, and no other call, may ask the server
// and wait there; the others wait in memory, first come, first served. A head
// leaves the line when it is granted the lock, so that the next one queues on
// the server while the holder still works, and the hand-over from one to the
// other costs no round trip. It also makes processes take turns: each has one
// waiter in the server's own queue.
//
// Calls that wait on the server, for any key, and calls that hold what they
// waited for, use at most half of the pool, the quota. The other half is for
// locks that are free.
package admission

import (
	"container/list"
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Queue is the lines and the quota of one pool.
type Queue struct {
	size     func() int          // of the pool; 0 where it has no limit
	overtime *semaphore.Weighted // for a head that found the quota taken for long

	mu        sync.Mutex
	lines     map[Line]*line // guarded by mu; a line that no call is in is not there
	quota     *semaphore.Weighted
	quotaSize int64
}

// NewQueue returns the queue of a pool whose size is what size returns, 0
// meaning that the pool has no limit.
func NewQueue(size func() int) *Queue {
	return &Queue{size: size, overtime: semaphore.NewWeighted(1), lines: make(map[Line]*line)}
}

// Line tells lines apart: what the server locks, and which calls wait for each
// other. Readers have lines of their own, since on the server each reader has a
// place of its own; so have Execs.
type Line struct {
	Number int64
	Pair   bool
	Shared bool
	Exec   bool
	Heads  int // how many may be heads at once
}

// line is the calls that want one key.
type line struct {
	heads   int
	waiting list.List // of *Ticket, in the order in which they came

	// Of Execs: the head that has no part of the quota, how long the quickest
	// message took, and whether the last one had to wait for its lock.
	free     *Ticket
	quickest time.Duration
	slow     bool
}

// poolWithoutLimit is what a pool without a limit counts as. It leaves half of a
// pgxpool of the same size to other users, and the server to other programs.
const poolWithoutLimit = 8

// Half returns half of the pool, as it is now: at least 1.
func (q *Queue) Half() int {
	size := q.size()
	if size <= 0 {
		size = poolWithoutLimit
	}
	return max(1, size/2)
}

// half returns the quota. A ticket that acquires from it releases to the same
// one, also if the pool has changed its size meanwhile.
func (q *Queue) half() *semaphore.Weighted {
	size := int64(q.Half())
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quota == nil || q.quotaSize != size {
		q.quota, q.quotaSize = semaphore.NewWeighted(size), size
	}
	return q.quota
}

// Empty reports whether no call is in the line.
func (q *Queue) Empty(id Line) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines[id] == nil
}

// Lines returns how many lines there are.
func (q *Queue) Lines() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.lines)
}

// enter puts t into a line and waits until t is a head of it. If ctx ends first,
// it returns ctx's error, and t is not in the line.
func (q *Queue) enter(ctx context.Context, id Line, t *Ticket) error {
	quota := (*semaphore.Weighted)(nil)
	if id.Exec {
		quota = q.half()
	}
	q.mu.Lock()
	l := q.lines[id]
	if l == nil {
		l = new(line)
		q.lines[id] = l
	} else if l.heads > 0 || l.waiting.Len() > 0 {
		t.first = false
	}
	t.offered = quota
	if l.waiting.Len() == 0 && l.admits(id, t) {
		l.heads++
		q.mu.Unlock()
		return nil
	}
	t.head = make(chan struct{})
	place := l.waiting.PushBack(t)
	q.mu.Unlock()

	select {
	case <-t.head:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.head: // just now
		q.leaveLocked(id, t)
	default:
		l.waiting.Remove(place)
		q.dropEmpty(id, l)
	}
	return ctx.Err()
}

// admits reports whether t may become a head. The caller has the queue's mu.
//
// An Exec expects to wait on the server for those before it, so it needs a part
// of the quota; but one of them needs none, because the lock may be free.
func (l *line) admits(id Line, t *Ticket) bool {
	switch {
	case l.heads >= l.limit(id):
		return false
	case !id.Exec:
		return true
	case l.free == nil:
		l.free = t
		return true
	}
	return t.accept()
}

// admit makes as many calls heads as may be. The caller has the queue's mu.
func (l *line) admit(id Line) {
	for l.waiting.Len() > 0 {
		first := l.waiting.Front()
		t := first.Value.(*Ticket)
		if !l.admits(id, t) {
			return
		}
		l.waiting.Remove(first)
		l.heads++
		close(t.head)
	}
}

// limit returns how many heads the line may have.
func (l *line) limit(id Line) int {
	if l.slow {
		return 1
	}
	return id.Heads
}

// leave ends t's being a head.
func (q *Queue) leave(id Line, t *Ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaveLocked(id, t)
}

func (q *Queue) leaveLocked(id Line, t *Ticket) {
	l := q.lines[id]
	l.heads--
	if l.free == t {
		l.free = nil
	}
	l.admit(id)
	q.dropEmpty(id, l)
}

func (q *Queue) dropEmpty(id Line, l *line) {
	if l.heads == 0 && l.waiting.Len() == 0 {
		delete(q.lines, id)
	}
}

// slower is how much slower than the quickest a message of an Exec may be, before it
// counts as one that had to wait for its lock.
const slower = 25 * time.Millisecond

// took tells the line how long a message of an Exec took. One that had to wait
// leaves one head in the line, until a message is quick again.
func (q *Queue) took(id Line, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[id]
	if l.quickest == 0 || d < l.quickest {
		l.quickest = d
	}
	l.slow = d > l.quickest+slower
}

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
