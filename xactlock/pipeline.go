package xactlock

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file is Exec on one connection of pgx: BEGIN, lock, statement and
// COMMIT in one pipeline. A statement of a pipeline that fails has the server
// skip the others, COMMIT included.

// pipeline is the statements of an Exec, and where in it which stands.
type pipeline struct {
	pgx.Batch
	lock, statement, commit int
}

// newPipeline returns the pipeline of c. limit bounds the wait for the lock
// where it is not 0. A wait of more than patienceOfExec also sets the role's
// other limits aside, which takes statements of its own.
func (c *call) newPipeline(limit time.Duration) *pipeline {
	p := new(pipeline)
	begin := "begin isolation level " + c.opts.level()
	if c.opts.ReadOnly {
		begin += " read only"
	}
	p.Queue(begin)
	long := limit == 0 || limit > patienceOfExec
	if long {
		p.Queue(locksql.SetAsideStatement)
		p.Queue(locksql.SetAsideTransaction)
	}
	p.lock = p.Len()
	sql, args := locksql.LockWithin(c.opts.Shared, c.keys[0])
	p.Queue(sql, append([]any{strconv.FormatInt(locksql.Milliseconds(limit), 10)}, args...)...)
	if long {
		p.Queue(locksql.PutBackStatement)
		p.Queue(locksql.PutBackTransaction)
	}
	p.statement = p.Len()
	p.Queue(c.exec.query, c.exec.args...)
	p.commit = p.Len()
	p.Queue("commit")
	return p
}

// pipelineOn runs an Exec on s. It reports whether to do so again on another
// connection.
func (c *call) pipelineOn(ctx, waitCtx context.Context, s *session, limit time.Duration) (again bool, err error) {
	if err := pretends(s.pg); err != nil {
		return false, fmt.Errorf("%w: %s", err, lockerr.Keys(c.keys))
	}
	if left := untilDeadline(waitCtx); left > 0 && (limit == 0 || left < limit) {
		limit = left
	}
	p := c.newPipeline(limit)
	answered, err := c.sendPipeline(ctx, s, p)
	if err == nil {
		c.outcome = Committed
		return false, nil
	}
	c.rollback(ctx, s)
	unseen := notSent(err) || answered == 0 && lockerr.SQLState(err) != "" // its last word was before any of this
	if s.pg.IsClosed() && unseen && c.diedInPool(waitCtx) {
		return true, nil
	}
	return false, c.pipelineError(ctx, waitCtx, s, p, answered, err)
}

// sendPipeline sends p and reads the answers. It returns how many statements
// have succeeded, and the error of the one that has not.
func (c *call) sendPipeline(ctx context.Context, s *session, p *pipeline) (answered int, err error) {
	s.watch.Begin(ctx, s.pg, pipelined)
	defer s.watch.End()
	results := s.conn.SendBatch(context.WithoutCancel(ctx), &p.Batch)
	for ; answered < p.Len(); answered++ {
		tag, err := results.Exec()
		if err != nil {
			_ = results.Close() // the same error
			return answered, err
		}
		if answered == p.statement {
			c.exec.result = driver.RowsAffected(tag.RowsAffected())
		}
	}
	return answered, results.Close()
}

// pipelineError returns what an err after so many statements means.
func (c *call) pipelineError(ctx, waitCtx context.Context, s *session, p *pipeline, answered int, err error) error {
	isAnswer := lockerr.SQLState(err) != "" // even where it ends the session
	switch {
	case s.pg.IsClosed() && !notSent(err) && (!isAnswer || answered == p.commit):
		c.outcome = Unknown
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(c.keys), err)
	case answered == p.statement || answered == 0 && isAnswer:
		// None answered: the statement could not be prepared.
		c.outcome = RolledBack
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return err
	case answered >= p.commit:
		return fmt.Errorf("xactlock: %s: commit: %w", lockerr.Keys(c.keys), err)
	case answered == p.lock && waitCtx.Err() == nil && lockerr.WaitEnded(err) && !s.pg.IsClosed() && !atDeadline(waitCtx):
		return errSlowLock
	}
	return c.notAcquired(waitCtx, err)
}
