package admission

import (
	"container/list"
)

// seats are what a call needs to wait on the server. There is one for each
// connection of half of the pool. A call that was granted its lock keeps its
// seat until it ends. A call that waits gives it up after each slice, if another
// call has none: so all keys have their turns on the server, however many there
// are. Where all seats are with holders for long, one call may wait beside them.
type seats struct {
	size func() int // of the pool; 0 where it has no limit

	waiters int       // calls that have a seat and wait
	holders int       // calls that have a seat and the lock
	extra   bool      // the extra seat is taken
	queue   list.List // of *seat that are wanted, in the order in which the calls came

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

// half returns how many seats there are now: at least 1.
func (s *seats) half() int {
	size := s.size()
	if size <= 0 {
		size = poolWithoutLimit
	}
	return max(1, size/2)
}

// take gives a call the seat t, if there is one that no other call queues for, and
// reports whether it has one. The caller has the queue's mu.
func (s *seats) take(t *seat) bool {
	if t.taken == none && s.queue.Len() == 0 {
		s.give(t)
	}
	return t.taken != none
}

// give gives a call the seat t, if there is one. The caller has the queue's mu.
func (s *seats) give(t *seat) {
	switch {
	case s.waiters+s.holders < s.half():
		s.waiters++
		t.taken = waits
	case t.patient && s.waiters == 0 && !s.extra:
		s.extra = true
		t.taken = extra
	}
}

// want queues for the seat t, unless the call does already. The caller has the
// queue's mu.
func (s *seats) want(t *seat) {
	if t.place == nil {
		t.offered = make(chan struct{})
		t.place = s.queue.PushBack(t)
	}
}

// leave ends a call's having a seat or queueing for one, and gives seats to the
// calls that queue. The caller has the queue's mu.
func (s *seats) leave(t *seat) {
	if t.place != nil {
		s.queue.Remove(t.place)
		t.place = nil
	}
	switch t.taken {
	case waits:
		s.waiters--
	case holds:
		s.holders--
	case extra:
		s.extra = false
	}
	t.taken = none
	s.offer()
}

// hold notes that the call has its lock. The caller has the queue's mu.
func (s *seats) hold(t *seat) {
	if t.taken != waits {
		s.leave(t)
		return
	}
	s.waiters--
	s.holders++
	t.taken = holds
	s.offer() // perhaps the extra seat
}

// offer gives seats to the calls that queue, as long as there are any. The caller has
// the queue's mu.
func (s *seats) offer() {
	for s.queue.Len() > 0 {
		t := s.queue.Front().Value.(*seat)
		if s.give(t); t.taken == none {
			return
		}
		s.queue.Remove(t.place)
		t.place = nil
		close(t.offered)
	}
}
