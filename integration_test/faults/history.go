package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// A history is what the workers have written down, and what the database says.
type history struct {
	ops        map[int64]*record
	chains     [registers][]row
	registers  [registers][2]int64 // a, b
	violations []violation
	ended      []event         // sessions that were ended
	stalls     map[int][]event // by the worker's number
	complete   bool            // all workers have ended
}

// A record is what is known of one operation. A time is 0 where there was none.
type record struct {
	id                        int64
	call                      *call
	begin, enter, leave, end  int64
	sessionAt                 int64 // when pid was written down
	told                      int64
	pid                       int
	proved                    int64 // the last time at which the lock was held for sure
	outcome, text             string
	token                     uint64
	reads, writes, violations []event
	refused                   []event
}

// worker is the number of the operation's worker.
func (r *record) worker() int { return int(r.id / 1e9) }

// heldUntil is the last time at which the lock was held for sure, 0 where there
// is none. A call that returned nil held it until its callback returned.
func (r *record) heldUntil() int64 {
	if r.outcome == committed {
		return max(r.proved, r.leave)
	}
	return r.proved
}

// A row is one of a chain.
type row struct {
	n, op int64
	token uint64
}

// A violation is something that must not be.
type violation struct {
	key  int
	op   int64
	at   int64
	text string
}

// readHistory reads the logs, then the database: what the logs say is committed
// by then is there.
func readHistory(ctx context.Context, dir string, admin *pgx.Conn, complete bool) (*history, error) {
	h := &history{ops: make(map[int64]*record), stalls: make(map[int][]event), complete: complete}
	if err := readJournals(dir, h.add); err != nil {
		return nil, err
	}
	tx, err := admin.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // it only reads
	for key := range registers {
		if err := h.readKey(ctx, tx, key); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *history) readKey(ctx context.Context, tx pgx.Tx, key int) error {
	rows, err := tx.Query(ctx, fmt.Sprintf("select n, op, token from chain_%d order by n, op", key))
	if err != nil {
		return err
	}
	h.chains[key], err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (c row, err error) {
		err = r.Scan(&c.n, &c.op, &c.token)
		return c, err
	})
	if err != nil {
		return err
	}
	return tx.QueryRow(ctx, fmt.Sprintf("select a, b from register_%d", key)).Scan(&h.registers[key][0], &h.registers[key][1])
}

// add takes an event into the history.
func (h *history) add(e event) {
	switch e.What {
	case evViolation:
		h.violations = append(h.violations, violation{key: e.Key, op: e.Op, at: e.At, text: e.Text})
		return
	case evEnded:
		h.ended = append(h.ended, e)
		return
	case evStall:
		h.stalls[int(e.N)] = append(h.stalls[int(e.N)], e)
		return
	case evFault:
		return
	}
	r := h.ops[e.Op]
	if r == nil {
		r = &record{id: e.Op}
		h.ops[e.Op] = r
	}
	r.add(e)
}

func (r *record) add(e event) {
	switch e.What {
	case evBegin:
		r.begin, r.call = e.At, e.Call
	case evEnter:
		r.enter = e.At
	case evSession:
		r.pid, r.sessionAt = e.PID, e.At
	case evToken:
		r.token = e.Token
	case evRead:
		r.reads = append(r.reads, e)
	case evWrite:
		r.writes = append(r.writes, e)
	case evHeld:
		r.proved = max(r.proved, e.At)
	case evRefused:
		r.refused = append(r.refused, e)
	case evTold:
		r.told = e.At
	case evLeave:
		r.leave = e.At
	case evEnd:
		r.end, r.outcome, r.text = e.At, e.Outcome, e.Text
	}
}

// of returns the operations of a key, in the order in which they began.
func (h *history) of(key int) []*record {
	var ops []*record
	for _, r := range h.ops {
		if r.call != nil && slices.Contains(r.call.Keys, key) {
			ops = append(ops, r)
		}
	}
	slices.SortFunc(ops, func(a, b *record) int { return int(a.begin - b.begin) })
	return ops
}

// holders are the operations of a key whose callback ran, with a lock, in the
// order in which they began to run.
func (h *history) holders(key int) []*record {
	ops := slices.DeleteFunc(h.of(key), func(r *record) bool { return r.enter == 0 })
	slices.SortFunc(ops, func(a, b *record) int { return int(a.enter - b.enter) })
	return ops
}

func (h *history) violated(key int, op int64, at int64, format string, args ...any) {
	h.violations = append(h.violations, violation{key: key, op: op, at: at, text: fmt.Sprintf(format, args...)})
}
