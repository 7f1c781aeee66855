package xactlock

import (
	"context"
	"database/sql"
	"sync"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"golang.org/x/sync/semaphore"
)

// queue keeps those who wait for a lock from taking the pool's connections.
//
// For each key there is a line. Its head, and nobody else, may ask the server
// and wait there, with a connection; the others wait in memory, first come,
// first served. The head leaves the line when it is granted the lock, so that
// the next one queues on the server while the holder still works, and the
// hand-over from one to the other costs no round trip. It also makes processes
// take turns: each has one waiter in the server's own queue.
//
// Those who wait on the server, for whatever key, and those who hold what they
// waited for, have half of the pool between them, the quota; the other half is
// for locks that nobody fights over.
//
// Execs have lines of their own: see execline.go.
type queue struct {
	db *sql.DB

	mu        sync.Mutex
	lines     map[lineID]*line     // guarded by mu; a line that nobody is in is not there
	execs     map[lineID]*execLine // guarded by mu, likewise
	quota     *semaphore.Weighted
	quotaSize int64
}

// lineID tells lines apart: what the server locks, and who gets along. Readers
// do not stand in the way of writers here, since on the server each has a
// place of its own.
type lineID struct {
	number int64
	pair   bool
	shared bool
	heads  int64 // how many may ask at once
}

type line struct {
	heads *semaphore.Weighted
	most  int64 // heads at once
	size  int   // guarded by queue.mu: how many are in it, heads included
}

func newQueue(db *sql.DB) *queue {
	return &queue{db: db, lines: make(map[lineID]*line), execs: make(map[lineID]*execLine)}
}

func newLineID(key hashkey.Key, shared bool, heads int64) lineID {
	_, _, pair := key.Pair()
	return lineID{number: key.Int64(), pair: pair, shared: shared, heads: heads}
}

// enter waits in the line until the caller is a head, and reports whether the
// line was empty. If ctx ends first, it returns ctx's error, and the caller is
// not in the line.
func (q *queue) enter(ctx context.Context, id lineID) (first bool, err error) {
	q.mu.Lock()
	l := q.lines[id]
	if l == nil {
		l = newLine(id.heads)
		q.lines[id] = l
	}
	l.size++
	first = l.size == 1
	q.mu.Unlock()
	if err := l.heads.Acquire(ctx, 1); err != nil {
		q.drop(id)
		return false, err
	}
	return first, nil
}

// spareLines is lines that nobody is in, for the next keys.
var spareLines sync.Pool

func newLine(heads int64) *line {
	if l, ok := spareLines.Get().(*line); ok && l.most == heads {
		return l
	}
	return &line{heads: semaphore.NewWeighted(heads), most: heads}
}

// leave lets the next one be head.
func (q *queue) leave(id lineID) {
	l, empty := q.drop(id)
	l.heads.Release(1)
	if empty {
		spareLines.Put(l)
	}
}

// drop takes one out of the line, and reports whether that was the last.
func (q *queue) drop(id lineID) (l *line, empty bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l = q.lines[id]
	if l.size--; l.size > 0 {
		return l, false
	}
	delete(q.lines, id)
	return l, true
}

// empty reports whether nobody is in the line.
func (q *queue) empty(id lineID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines[id] == nil
}

// half returns the quota: half of the pool as it is now, or nil where the pool
// has no limit. Whoever acquires from it releases to the same one.
func (q *queue) half() *semaphore.Weighted {
	size := int64(q.db.Stats().MaxOpenConnections)
	if size == 0 {
		return nil
	}
	size = max(1, size/2)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quota == nil || q.quotaSize != size {
		q.quota, q.quotaSize = semaphore.NewWeighted(size), size
	}
	return q.quota
}
