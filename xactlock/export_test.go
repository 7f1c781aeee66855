package xactlock

import (
	"context"
	"database/sql"

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
