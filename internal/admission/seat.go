package admission

import (
	"container/list"
	"context"
	"time"
)

// seats are what a call needs to wait on the server. There is one for each
// connection of half of the pool. A call that was granted its lock keeps its
// seat until it ends. A call that waits gives it up after each slice, if another
// call has none: so all keys have their turns on the server, however many there
// are. Where all seats are with holders for long, one call may wait beside them.
type seats struct {
	size func() int // of the pool; 0 where it has no limit

	waiters int       // who have a seat and wait
	holders int       // who have a seat and the lock
	extra   bool      // the extra seat is taken
	queue   list.List // of *Ticket without a seat, in the order in which they came

	asker chan struct{} // holds a token while a call without a seat asks the server
}

// seat is what a ticket has.
type seat struct {
	taken   kind          // guarded by the queue's mu
	patient bool          // guarded by the queue's mu: it has waited for long
	place   *list.Element // guarded by the queue's mu: in the queue for a seat
	offered chan struct{} // closed when the call has a seat; made when it queues for one
	asking  bool          // has the asker's token
}

type kind int

const (
	none kind = iota
	waits
	holds
	extra // the one beside the holders
)

// poolWithoutLimit is what a pool without a limit counts as. It leaves half of a
// pgxpool of the same size to other users, and the server to other programs.
const poolWithoutLimit = 8

// Half returns half of the pool, as it is now: at least 1.
func (q *Queue) Half() int {
	size := q.seats.size()
	if size <= 0 {
		size = poolWithoutLimit
	}
	return max(1, size/2)
}

// take gives t a seat, if there is one that nobody queues for, and reports
// whether t has one. The caller has the queue's mu.
func (s *seats) take(t *Ticket) bool {
	if t.seat.taken == none && s.queue.Len() == 0 {
		s.give(t)
	}
	return t.seat.taken != none
}

// give gives t a seat, if there is one. The caller has the queue's mu.
func (s *seats) give(t *Ticket) {
	switch half := t.queue.Half(); {
	case s.waiters+s.holders < half:
		s.waiters++
		t.seat.taken = waits
	case t.seat.patient && s.waiters == 0 && !s.extra:
		s.extra = true
		t.seat.taken = extra
	}
}

// leave ends t's having a seat or queueing for one, and gives seats to those who
// queue. The caller has the queue's mu.
func (s *seats) leave(t *Ticket) {
	if t.seat.place != nil {
		s.queue.Remove(t.seat.place)
		t.seat.place = nil
	}
	switch t.seat.taken {
	case waits:
		s.waiters--
	case holds:
		s.holders--
	case extra:
		s.extra = false
	}
	t.seat.taken = none
	s.offer()
}

// hold makes t a holder. The caller has the queue's mu.
func (s *seats) hold(t *Ticket) {
	if t.seat.taken != waits {
		s.leave(t)
		return
	}
	s.waiters--
	s.holders++
	t.seat.taken = holds
	s.offer() // perhaps the extra seat
}

// offer gives seats to those who queue, as long as there are any. The caller has
// the queue's mu.
func (s *seats) offer() {
	for s.queue.Len() > 0 {
		t := s.queue.Front().Value.(*Ticket)
		if s.give(t); t.seat.taken == none {
			return
		}
		s.queue.Remove(t.seat.place)
		t.seat.place = nil
		close(t.seat.offered)
	}
}

// TryReserve reports whether the call may wait on the server: whether it has a
// seat, or gets one at once.
func (t *Ticket) TryReserve() bool {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.queue.seats.take(t)
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
	if q.seats.take(t) {
		q.mu.Unlock()
		return true
	}
	if t.seat.place == nil {
		t.seat.offered = make(chan struct{})
		t.seat.place = q.seats.queue.PushBack(t)
	}
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
		t.seat.asking = true
		return false
	}
}

// Asked is called after each question and each slice of a wait, whatever came of
// it. Then it is another's turn.
func (t *Ticket) Asked() {
	if t.seat.asking {
		t.seat.asking = false
		<-t.queue.seats.asker
	}
}

// Waited is called after a slice of a wait on the server that brought nothing. A
// call that others wait for gives up its seat.
func (t *Ticket) Waited() {
	if t.queue == nil {
		return
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	if t.queue.seats.queue.Len() > 0 {
		t.queue.seats.leave(t)
	}
}

// Stand gives up the seat, if the call has one.
func (t *Ticket) Stand() {
	t.Asked()
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	t.queue.seats.leave(t)
}
