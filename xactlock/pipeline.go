package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file is Execs on one connection of pgx: for each BEGIN, lock, statement
// and COMMIT, one Exec after the other, all in one pipeline. A statement of a
// pipeline that fails has the server skip the others: the COMMIT of its own
// Exec, and whatever comes after that.

// pipeline is some Execs, in one message.
type pipeline struct {
	pgx.Batch
	parts  []part
	convoy *convoy // nil for one that goes by itself
}

// part is one Exec in a pipeline: how long it waits for its lock on the server
// (0: without a limit), where its statements stand, and what became of it.
type part struct {
	exec                           *execution
	limit                          time.Duration
	begin, lock, statement, commit int
	left                           bool // out, because its statement cannot be sent
	result                         sql.Result
	fate                           fate
}

// add adds an Exec. Until it is sent, its fate is to go once more.
func (p *pipeline) add(e *execution, limit time.Duration) {
	p.parts = append(p.parts, part{exec: e, limit: limit, fate: fate{outcome: Failed, err: errNotSent, again: true, alone: true}})
}

// queue queues the statements of t. A wait of more than patienceOfExec also sets
// the role's other limits aside, which takes statements of its own.
func (p *pipeline) queue(t *part, query string, args []any) {
	c, limit := t.exec.call, t.limit
	if left := untilDeadline(t.exec.waitCtx); left > 0 && (limit == 0 || left < limit) {
		limit = left
	}
	t.begin = p.Len()
	p.Queue(c.begin)
	long := limit == 0 || limit > patienceOfExec
	if long {
		p.Queue(locksql.SetAside)
	}
	t.lock = p.Len()
	text, params := locksql.LockWithin(c.opts.Shared, c.keys[0], limit)
	var lock []any
	for _, param := range params {
		lock = append(lock, param)
	}
	p.Queue(text, lock...)
	if long {
		p.Queue(locksql.PutBack)
	}
	t.statement = p.Len()
	p.Queue(query, args...)
	t.commit = p.Len()
	p.Queue("commit")
}

// run sends p on s, reads the answers, and says what has become of each Exec
// and how long it took.
func (p *pipeline) run(ctx context.Context, s *session) (took time.Duration) {
	began := time.Now()
	answered, err := p.exchange(ctx, s)
	took = time.Since(began)
	for i := range p.parts {
		if t := &p.parts[i]; !t.left {
			t.fate = p.fateOf(t, s, answered, err)
		}
	}
	s.rollback(ctx)
	s.forgetStale(ctx, err)
	return took
}

// exchange sends p on s and reads the answers. It returns how many statements
// have succeeded, and the error of the one that has not.
func (p *pipeline) exchange(ctx context.Context, s *session) (answered int, err error) {
	patience := pipelined
	if p.convoy != nil {
		patience.Gone = p.convoy.gone
	}
	s.watch.Begin(ctx, s.pg, patience)
	defer s.watch.End()
	ctx = context.WithoutCancel(ctx)
	if err := p.prepare(ctx, s); err != nil || p.Len() == 0 {
		return 0, err
	}
	results := s.conn.SendBatch(ctx, &p.Batch)
	if p.convoy != nil {
		p.convoy.sent.Store(true)
	}
	for i := range p.parts {
		for t := &p.parts[i]; !t.left && answered <= t.commit; answered++ {
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

// prepare queues everybody whose statement and parameters can be sent, and
// says of the others why not. The error is one of the connection.
//
// pgx must not find that out: it encodes parameters while it writes into its
// buffer, and when one cannot be encoded it closes the connection, with a
// goodbye that flushes what the buffer has by then: a COMMIT, perhaps, of
// another Exec.
func (p *pipeline) prepare(ctx context.Context, s *session) error {
	for i := range p.parts {
		t := &p.parts[i]
		query, args, err := t.prepare(ctx, s)
		switch {
		case s.pg.IsClosed():
			return notSentError{err}
		case err != nil:
			t.left = true
		default:
			p.queue(t, query, args)
		}
	}
	return nil
}

// prepare returns t's statement as it is to be sent.
func (t *part) prepare(ctx context.Context, s *session) (query string, args []any, err error) {
	e := t.exec
	if e.convoy != nil {
		// A parameter may panic while it is encoded. That belongs into the
		// goroutine of its caller, so it goes once more by itself.
		defer func() {
			if value := recover(); value != nil {
				err = errPanicked
			}
		}()
	}
	query, args, err = s.prepareExec(ctx, e.query, e.args)
	switch {
	case err == nil:
	case e.waitCtx.Err() != nil:
		t.fate = e.before(err)
	case e.convoy != nil && lockerr.WaitEnded(err): // perhaps for another's sake
	case lockerr.SQLState(err) != "":
		t.fate = fate{outcome: RolledBack, err: e.because(err)}
	default:
		t.fate = fate{outcome: Failed, err: fmt.Errorf("xactlock: %s: %w", lockerr.Keys(e.call.keys), err)}
	}
	return query, args, err
}

var errNotSent = errors.New("xactlock: nothing was sent") // seen by no caller

// notSentError is what kept a message from being sent.
type notSentError struct{ error }

func (e notSentError) Unwrap() error   { return e.error }
func (notSentError) SafeToRetry() bool { return true }

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
	noAnswer := closed && !isAnswer
	e := t.exec
	switch {
	case notSent(err):
		f := e.before(err)
		f.again = true
		return f
	case answered > t.commit:
		return fate{outcome: Committed, result: t.result}
	case noAnswer, closed && isAnswer && answered == t.commit:
		return fate{outcome: Unknown, err: fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(e.call.keys), e.because(err))}
	case answered == 0 && lockerr.SQLState(err) == noSuchStatement && !closed:
		f := e.before(err) // BEGIN, which somebody has deallocated
		f.again = true
		return f
	case answered < t.begin, closed && answered == t.begin, answered == 0 && len(p.parts) > 1:
		// None answered: some Exec's statement or parameter was not to pgx's or
		// the server's liking.
		f := e.before(err)
		f.again, f.alone = true, answered == 0
		return f
	case p.convoy != nil && p.convoy.ctx.Err() != nil && e.ctx.Err() == nil && lockerr.WaitEnded(err):
		// The request to cancel was for another's sake.
		return fate{again: true, alone: true, outcome: RolledBack, err: err}
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
