package xactlock

import (
	"context"
	"database/sql"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Queue and Place are the queue as its tests see it, without a server.
type (
	Queue struct{ *queue }
	Place struct{ place }
)

func NewQueue(db *sql.DB) Queue { return Queue{newQueue(db)} }

func (q Queue) Place() *Place { return &Place{place{queue: q.queue}} }

func (q Queue) Lines() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.lines) + len(q.execs)
}

func (p *Place) Enter(ctx context.Context, shared bool, heads int64, keys ...hashkey.Key) error {
	var ids []lineID
	for _, key := range keys {
		ids = append(ids, newLineID(key, shared, heads))
	}
	return p.place.enter(ctx, ids)
}

func (p *Place) First() bool                        { return p.first }
func (p *Place) WaitQuota(ctx context.Context) bool { return p.waitQuota(ctx) }
func (p *Place) Granted()                           { p.granted() }
func (p *Place) End()                               { p.end() }

// Line is the line of the Execs for one key, as its tests see it.
type Line struct {
	queue Queue
	key   hashkey.Key
	// Serve is the server: what becomes of Execs that go in one message, which
	// it may take its time for. There is one where an Exec goes by itself.
	Serve func(ids []int) []Fate
}

// Fate is what becomes of an Exec.
type Fate int

const (
	Done  Fate = iota
	Slow       // the lock is not to be had soon
	Again      // nothing of it was executed
)

func (q Queue) Line(key hashkey.Key, serve func(ids []int) []Fate) *Line {
	return &Line{queue: q, key: key, Serve: serve}
}

// Exec runs an Exec. If ctx ends first, it returns ctx's error.
func (l *Line) Exec(ctx context.Context, id int) error {
	e := &execution{args: []any{id}, ctx: ctx, waitCtx: ctx}
	e.call = &call{Locker: new(Locker), keys: []hashkey.Key{l.key}}
	l.queue.enterExec(e)
	for {
		switch e.await() {
		case leading:
			if l.lead(e) {
				return nil
			}
		case answered:
			return nil
		case withdrawn, left:
			return ctx.Err()
		}
	}
}

// lead does what execution.lead does, with Serve for a server.
func (l *Line) lead(e *execution) (over bool) {
	if v := e.line.gather(e); v != nil {
		go func() {
			v.sent.Store(true)
			parts := make([]part, len(v.execs))
			took := l.serve(v.execs, parts)
			e.line.disband(v, parts, took)
		}()
		return false
	}
	parts := make([]part, 1)
	took := l.serve([]*execution{e}, parts)
	f := parts[0].fate
	e.line.arrive(e, arrival{took: took, slow: f.slow, again: f.slow || f.again})
	return !f.slow && !f.again
}

func (l *Line) serve(execs []*execution, parts []part) time.Duration {
	began := time.Now()
	var ids []int
	for _, e := range execs {
		ids = append(ids, e.args[0].(int))
	}
	for i, f := range l.Serve(ids) {
		parts[i] = part{exec: execs[i], fate: fate{slow: f == Slow, again: f == Again}}
	}
	return time.Since(began)
}

// Lots is the transactions to adopt, as their tests see them: there is nothing
// that they run on.
type Lots struct{ lots }

// Calls says that there are more calls on a connection, or fewer.
func (l *Lots) Calls(more int32) { l.calls.Add(more) }

// Take returns a transaction, and what a call does at its end.
func (l *Lots) Take() (tx *sql.Tx, end func()) {
	t := l.take()
	return t.Tx, func() { l.end(t) }
}

// LargestLot is how many transactions are made at once, at most.
const LargestLot = largestLot

// TransactionsInUse is how many there are that database/sql takes for open.
func TransactionsInUse() int { return adopter().Stats().InUse }
