package xactlock

import (
	"cmp"
	"slices"
	"time"
)

// execLine is the Execs for one key, in this process.
//
// An Exec has the lock for a moment only. So two messages are on their way at
// once, for the server to have the next when it is done with one. Who finds two
// on their way waits in memory. When an answer comes, the first of those who
// wait leads: it gets a connection of the pool and takes along, in one message,
// those who wait by then: as many as room says, each with a transaction of its
// own. However many want the key, two connections are in use for it, and on the
// server hardly anybody waits for anybody.
//
// What goes in one message also fails in one, or is slow in one, so room begins
// at one, and doubles with each full message that was quick.
//
// Readers do not stand in each other's way on the server, so they have as many
// messages on their way as half of the pool.
type execLine struct {
	queue *queue
	id    lineID
	most  int // messages on their way at once

	// Guarded by queue.mu.
	waiting  []*execution // in the order of their numbers
	entered  int          // the last number
	underWay int
	room     int
	quickest time.Duration // from sending to the answer; 0 if there was none yet
}

// mostRoom bounds the Execs in one message.
const mostRoom = 32

// stage is how far an Exec has come.
type stage int

const (
	inLine    stage = iota // it waits in memory
	leading                // about to get a connection, and to go
	joined                 // in a convoy, which goes
	answered               // its fate is known
	withdrawn              // ctx ended while it waited
	left                   // ctx ended while it was on its way, and the server did not tell in time
)

// placeInLine is where an Exec stands. It is guarded by the queue's mu, until
// it is answered, withdrawn or left.
type placeInLine struct {
	line      *execLine
	number    int // in the order in which they came
	stage     stage
	wake      chan struct{} // gets a token when the stage has changed
	alone     bool          // it goes in a message of its own
	exclusive bool          // and while no other is on its way
	convoy    *convoy       // that it is in, where it has joined
	fate      fate

	contended bool      // it had to wait
	since     time.Time // when it began to wait
	queued    time.Duration
}

// to moves e to another stage. The caller holds mu.
func (e *execution) to(s stage) {
	now := time.Now()
	switch {
	case s == inLine:
		e.since = now
	case e.stage == inLine:
		e.queued += now.Sub(e.since)
	}
	e.stage = s
	select {
	case e.wake <- struct{}{}:
	default: // it has not looked since the last change
	}
}

// enterExec puts e into the line of its key.
func (q *queue) enterExec(e *execution) {
	id := newLineID(e.call.keys[0], e.call.opts.Shared, 0)
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.execs[id]
	if l == nil {
		l = &execLine{queue: q, id: id, most: q.mostMessages(id.shared), room: 1}
		q.execs[id] = l
	}
	l.entered++
	e.line, e.number, e.wake = l, l.entered, make(chan struct{}, 1)
	l.waiting = append(l.waiting, e)
	e.to(inLine)
	l.next()
	e.contended = e.stage == inLine
}

// mostMessages is how many messages of Execs for one key may be on their way at
// once: two, or for readers as many as half of the pool, or 8 where that has no
// limit.
func (q *queue) mostMessages(shared bool) int {
	half := 8
	if size := q.db.Stats().MaxOpenConnections; size > 0 {
		half = max(1, size/2)
	}
	if shared {
		return half
	}
	return min(2, half)
}

// next lets as many lead as may. The caller holds mu.
func (l *execLine) next() {
	for len(l.waiting) > 0 && l.underWay < l.most {
		e := l.waiting[0]
		if e.exclusive && l.underWay > 0 {
			return
		}
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		l.underWay += l.weight(e)
		e.to(leading)
	}
	if len(l.waiting) == 0 && l.underWay == 0 {
		delete(l.queue.execs, l.id)
	}
}

func (l *execLine) weight(e *execution) int {
	if e.exclusive {
		return l.most
	}
	return 1
}

// gather returns a convoy of e, which leads, and those who go with it, or nil
// if nobody does.
func (l *execLine) gather(e *execution) *convoy {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	n := 0
	for !e.alone && n < len(l.waiting) && n+1 < l.room && !l.waiting[n].alone {
		n++
	}
	if n == 0 {
		return nil
	}
	v := newConvoy(l, append([]*execution{e}, l.waiting[:n]...))
	clear(l.waiting[:n])
	l.waiting = l.waiting[n:]
	for _, e := range v.execs {
		e.convoy = v
		e.to(joined)
	}
	return v
}

// arrival is how the way of one who led has ended.
type arrival struct {
	convoy bool // it has not: it goes on in a convoy
	again  bool // it goes once more
	slow   bool // its lock is not to be had soon
	took   time.Duration
}

// arrive ends the way of e, which led.
func (l *execLine) arrive(e *execution, a arrival) {
	if a.convoy {
		return
	}
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	l.underWay -= l.weight(e)
	l.learn(1, a.took, !a.again)
	if a.again {
		e.alone, e.exclusive = true, e.exclusive || a.slow
		l.again(e)
	}
	l.next()
}

// again puts those who have to go once more where they were in the line. The
// caller holds mu.
func (l *execLine) again(execs ...*execution) {
	l.waiting = slices.Concat(execs, l.waiting)
	slices.SortFunc(l.waiting, func(a, b *execution) int { return cmp.Compare(a.number, b.number) })
	for _, e := range execs {
		e.contended = e.contended || e.exclusive
		e.convoy = nil
		e.to(inLine)
	}
}

// learn sets room by what became of a message with n Execs. It was quick if it
// did not take much longer than the quickest, which is the way to the server
// and back. It took no time if it was not sent. The caller holds mu.
func (l *execLine) learn(n int, took time.Duration, ok bool) {
	if took > 0 && (l.quickest == 0 || took < l.quickest) {
		l.quickest = took
	}
	switch {
	case !ok || took > l.quickest+patienceOfExec:
		l.room = 1
	case took > 0 && n == l.room:
		l.room = min(2*l.room, mostRoom)
	}
}

// withdraw takes e out of the line, and reports whether it was waiting there.
func (l *execLine) withdraw(e *execution) bool {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	if e.stage != inLine {
		return false
	}
	i := slices.Index(l.waiting, e)
	l.waiting = slices.Delete(l.waiting, i, i+1)
	e.to(withdrawn)
	l.next()
	return true
}

// await waits until e leads, or it is over.
func (e *execution) await() stage {
	for {
		switch s := e.stageNow(); s {
		case inLine:
			select {
			case <-e.wake:
			case <-e.waitCtx.Done():
				e.line.withdraw(e)
			}
		case joined:
			select {
			case <-e.wake:
			case <-e.ctx.Done():
				e.leave()
			}
		default:
			return s
		}
	}
}

func (e *execution) stageNow() stage {
	e.line.queue.mu.Lock()
	defer e.line.queue.mu.Unlock()
	return e.stage
}
