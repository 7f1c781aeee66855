// Package admission decides which calls may use a connection of a pool to wait
// for a lock. The rest wait in memory, without one.
//
// For each key there is a line. Its heads, and no other call, may ask the server
// and wait there; the rest wait in memory, first come, first served. A head
// leaves the line when it is granted the lock, so that the next one queues on
// the server while the holder still works, and the hand-over from one to the
// other costs no round trip. It also makes processes take turns: each has one
// waiter in the server's own queue.
//
// Calls that wait on the server, for any key, and calls that hold what they
// waited for, use at most half of the pool: a seat each. The other half is for
// locks that are free.
package admission

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// Queue is the lines and the seats of one pool.
type Queue struct {
	mu    sync.Mutex
	lines map[Line]*line // guarded by mu; a line that no call is in is not there
	seats seats          // guarded by mu
}

// NewQueue returns the queue of a pool whose size is what size returns, 0
// meaning that the pool has no limit.
func NewQueue(size func() int) *Queue {
	return &Queue{lines: make(map[Line]*line), seats: seats{size: size, asker: make(chan struct{}, 1)}}
}

// Line tells lines apart: what the server locks, and which calls wait for each
// other. Readers have lines of their own, since on the server each reader has a
// place of its own; so have Execs, and calls that poll, since their head sleeps
// for as long as it does, whether the lock is free or not.
type Line struct {
	Number int64
	Slots  int           // how many slots the key has; 0 where it is one lock
	Poll   time.Duration // between two questions of a head that polls; 0 where it waits
	Heads  int           // how many may be heads at once
	Pair   bool
	Shared bool
	Exec   bool
}

// line is the calls that want one key.
type line struct {
	id      Line
	heads   int
	waiting list.List // of *Ticket, in the order in which they came

	// Of Execs: the head that has no seat, how long the quickest message took,
	// and whether the last one had to wait for its lock.
	free     *Ticket
	quickest time.Duration
	slow     bool
}

// Half returns half of the pool, as it is now: at least 1.
func (q *Queue) Half() int { return q.seats.half() }

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
func (q *Queue) enter(ctx context.Context, id Line, t *Ticket) (*line, error) {
	q.mu.Lock()
	l := q.lines[id]
	if l == nil {
		l = &line{id: id}
		q.lines[id] = l
	} else if l.heads > 0 || l.waiting.Len() > 0 {
		t.first = false
	}
	if l.waiting.Len() == 0 && l.admits(t) {
		l.heads++
		q.mu.Unlock()
		return l, nil
	}
	t.head = make(chan struct{})
	place := l.waiting.PushBack(t)
	q.mu.Unlock()

	select {
	case <-t.head:
		return l, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.head: // just now
		q.leave(l, t)
	default:
		l.waiting.Remove(place)
		q.dropEmpty(l)
	}
	return nil, ctx.Err()
}

// admits reports whether t may become a head. The caller has the queue's mu.
//
// An Exec expects to wait on the server for the Execs before it, so it needs a
// seat; but one of them needs none, because the lock may be free.
func (l *line) admits(t *Ticket) bool {
	switch {
	case l.heads >= l.limit():
		return false
	case !l.id.Exec, t.queue.seats.take(&t.seat):
		return true
	case l.free == nil:
		l.free = t
		return true
	}
	return false
}

// admit makes as many calls heads as may be. The caller has the queue's mu.
func (l *line) admit() {
	for l.waiting.Len() > 0 {
		first := l.waiting.Front()
		t := first.Value.(*Ticket)
		if !l.admits(t) {
			return
		}
		l.waiting.Remove(first)
		l.heads++
		close(t.head)
	}
}

// limit returns how many heads the line may have.
func (l *line) limit() int {
	if l.slow {
		return 1
	}
	return l.id.Heads
}

// leave ends t's being a head of l. The caller has mu.
func (q *Queue) leave(l *line, t *Ticket) {
	l.heads--
	if l.free == t {
		l.free = nil
	}
	l.admit()
	q.dropEmpty(l)
}

// dropEmpty forgets l, if no call is in it. The caller has mu.
func (q *Queue) dropEmpty(l *line) {
	if l.heads == 0 && l.waiting.Len() == 0 {
		delete(q.lines, l.id)
	}
}

// slower is how much slower than the quickest a message of an Exec may be, before it
// counts as one that had to wait for its lock.
const slower = 25 * time.Millisecond

// took tells the line how long a message of an Exec took. One that had to wait
// leaves one head in the line, until a message is quick again.
func (q *Queue) took(l *line, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.quickest == 0 || d < l.quickest {
		l.quickest = d
	}
	l.slow = d > l.quickest+slower
}

// quick reports whether the last message of an Exec in the line did not have to
// wait.
func (q *Queue) quick(l *line) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return l.quickest > 0 && !l.slow
}

// Ticket is where one call stands in the queue. The zero Ticket stands nowhere.
type Ticket struct {
	queue *Queue
	lines []*line  // of which it is a head
	room  [1]*line // for most calls' lines

	first bool          // no other call was in any of the lines
	head  chan struct{} // closed when it is a head of the line that it entered last

	seat seat // to wait on the server
}

// Enter makes the call a head of all lines, one after the other in their order,
// which must be the same for all calls, so that no two wait for each other. If
// ctx ends first, it returns ctx's error, and the call is in no line.
func (t *Ticket) Enter(ctx context.Context, q *Queue, lines []Line) error {
	t.queue, t.first, t.lines = q, true, t.room[:0]
	for _, id := range lines {
		l, err := q.enter(ctx, id, t)
		if err != nil {
			t.End()
			return err
		}
		t.lines = append(t.lines, l)
	}
	return nil
}

// InLine reports whether the call is a head of its lines.
func (t *Ticket) InLine() bool { return len(t.lines) > 0 }

// First reports whether no other call was in any of the lines.
func (t *Ticket) First() bool { return t.first }

// Granted lets the next call in line ask. A seat is kept until End.
func (t *Ticket) Granted() { t.leave((*seats).hold) }

// End leaves the queue altogether.
func (t *Ticket) End() { t.leave((*seats).leave) }

// leave leaves the lines. What becomes of the seat comes first: the next Exec in
// line may need it.
func (t *Ticket) leave(leave func(*seats, *seat)) {
	if t.queue == nil {
		return
	}
	t.Asked()
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	leave(&t.queue.seats, &t.seat)
	for _, l := range t.lines {
		t.queue.leave(l, t)
	}
	t.lines = nil
}

// Took tells the line of an Exec how long its message took.
func (t *Ticket) Took(d time.Duration) {
	for _, l := range t.lines {
		t.queue.took(l, d)
	}
}

// Quick reports whether an Exec may expect that its message need not wait long:
// the last one in its line did not.
func (t *Ticket) Quick() bool { return len(t.lines) > 0 && t.queue.quick(t.lines[0]) }

// TryReserve reports whether the call may wait on the server: whether it has a
// seat, or gets one at once.
func (t *Ticket) TryReserve() bool {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.queue.seats.take(&t.seat)
}

// patience is how long a call waits for a seat before it may have the extra one,
// or ask the server again: all seats may be taken for long, while this call's key
// has become free.
const patience = 100 * time.Millisecond

// Reserve waits for a seat, but not for ever, and reports whether the call may
// wait on the server. If not, it may ask there without waiting, unless ctx has
// ended: one call of the pool at a time may, until Asked.
func (t *Ticket) Reserve(ctx context.Context) bool {
	q := t.queue
	q.mu.Lock()
	if q.seats.take(&t.seat) {
		q.mu.Unlock()
		return true
	}
	q.seats.want(&t.seat)
	q.mu.Unlock()

	patient := time.NewTimer(patience)
	defer patient.Stop()
	select {
	case <-t.seat.offered:
		return true
	case <-ctx.Done():
		return false
	case <-patient.C:
		q.mu.Lock()
		t.seat.patient = true
		q.seats.offer() // perhaps the extra seat
		q.mu.Unlock()
	}
	select {
	case <-t.seat.offered:
		return true
	case <-ctx.Done():
		return false
	case q.seats.asker <- struct{}{}:
	}
	select {
	case <-t.seat.offered: // just now
		<-q.seats.asker
		return true
	default:
		t.seat.asking = true
		return false
	}
}

// Asked is called when the connection on which the call has asked is given back. Then it is the next call's turn.
func (t *Ticket) Asked() {
	if t.seat.asking {
		t.seat.asking = false
		<-t.queue.seats.asker
	}
}

// Waited is called after a slice of a wait on the server that brought nothing. If
// other calls wait for a seat, the call gives up its own.
func (t *Ticket) Waited() {
	if t.queue == nil {
		return
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	if t.queue.seats.queue.Len() > 0 {
		t.queue.seats.leave(&t.seat)
	}
}

// Stand gives up the seat, if the call has one.
func (t *Ticket) Stand() {
	t.Asked()
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	t.queue.seats.leave(&t.seat)
}
