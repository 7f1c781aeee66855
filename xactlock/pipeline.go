package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file is Execs on one connection of pgx: for each BEGIN, lock, statement
// and COMMIT, one Exec after the other, all in one pipeline. A statement of a
// pipeline that fails has the server skip the others: the COMMIT of its own
// Exec, and whatever comes after that.

// pipeline is the statements of some Execs.
type pipeline struct {
	pgx.Batch
	parts []part
	sent  *atomic.Bool // set when it is sent, if not nil
}

// part is one Exec in a pipeline: where its statements stand, and its result.
type part struct {
	exec                           *execution
	begin, lock, statement, commit int
	result                         sql.Result
	fate                           fate
}

// add adds an Exec that waits for its lock for at most limit where that is not
// 0, and for no longer than its deadline. A wait of more than patienceOfExec
// also sets the role's other limits aside, which takes statements of its own.
func (p *pipeline) add(e *execution, limit time.Duration) {
	if left := untilDeadline(e.waitCtx); left > 0 && (limit == 0 || left < limit) {
		limit = left
	}
	c, t := e.call, part{exec: e, fate: fate{again: true, alone: true}} // until it is sent
	t.begin = p.Len()
	p.Queue(c.begin)
	long := limit == 0 || limit > patienceOfExec
	if long {
		p.Queue(locksql.SetAsideStatement)
		p.Queue(locksql.SetAsideTransaction)
	}
	t.lock = p.Len()
	text, args := locksql.LockWithin(c.opts.Shared, c.keys[0])
	p.Queue(text, append([]any{strconv.FormatInt(locksql.Milliseconds(limit), 10)}, args...)...)
	if long {
		p.Queue(locksql.PutBackStatement)
		p.Queue(locksql.PutBackTransaction)
	}
	t.statement = p.Len()
	p.Queue(e.query, e.args...)
	t.commit = p.Len()
	p.Queue("commit")
	p.parts = append(p.parts, t)
}

// run sends p on s, reads the answers, and says what has become of each Exec
// and how long it took.
func (p *pipeline) run(ctx context.Context, s *session) (took time.Duration) {
	began := time.Now()
	answered, err := p.exchange(ctx, s)
	took = time.Since(began)
	for i := range p.parts {
		t := &p.parts[i]
		t.fate = p.fateOf(t, s, answered, err)
	}
	s.rollback(ctx)
	return took
}

// exchange sends p on s and reads the answers. It returns how many statements
// have succeeded, and the error of the one that has not.
func (p *pipeline) exchange(ctx context.Context, s *session) (answered int, err error) {
	s.watch.Begin(ctx, s.pg, pipelined)
	defer s.watch.End()
	results := s.conn.SendBatch(context.WithoutCancel(ctx), &p.Batch)
	if p.sent != nil {
		p.sent.Store(true)
	}
	for i := range p.parts {
		for t := &p.parts[i]; answered <= t.commit; answered++ {
			tag, err := results.Exec()
			if err != nil {
				_ = results.Close() // the same error
				return answered, err
			}
			if answered == t.statement {
				t.result = driver.RowsAffected(tag.RowsAffected())
			}
		}
	}
	return answered, results.Close()
}

// fate is what has become of one Exec of a pipeline.
type fate struct {
	outcome Outcome
	err     error
	result  sql.Result
	again   bool // nothing of it was executed
	alone   bool // and perhaps because of it
	slow    bool // its lock is not to be had soon
}

// fateOf returns what it means for t that so many statements of p have succeeded
// on s, and that then came err.
func (p *pipeline) fateOf(t *part, s *session, answered int, err error) fate {
	closed, isAnswer := s.pg.IsClosed(), lockerr.SQLState(err) != "" // even where it ends the session
	noAnswer := closed && !notSent(err) && !isAnswer
	e := t.exec
	switch {
	case answered > t.commit:
		return fate{outcome: Committed, result: t.result}
	case noAnswer, closed && isAnswer && answered == t.commit:
		return fate{outcome: Unknown, err: fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(e.call.keys), e.because(err))}
	case answered < t.begin, closed && answered == t.begin, answered == 0 && len(p.parts) > 1:
		// None answered: a statement of some Exec could not be prepared, or a
		// parameter could not be encoded.
		f := e.before(err)
		f.again, f.alone = true, answered == 0
		return f
	case answered == t.statement, answered == 0 && isAnswer:
		return fate{outcome: RolledBack, err: e.because(err)}
	case answered == t.commit:
		return fate{outcome: Failed, err: fmt.Errorf("xactlock: %s: commit: %w", lockerr.Keys(e.call.keys), err)}
	}
	f := e.before(err)
	f.slow = answered == t.lock && !closed && e.waitCtx.Err() == nil && lockerr.WaitEnded(err) && !atDeadline(e.waitCtx)
	return f
}

// because returns err, with the end of ctx joined where that is why.
func (e *execution) because(err error) error {
	if e.ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", e.ctx.Err(), err)
	}
	return err
}
