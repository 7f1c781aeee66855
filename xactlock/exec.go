package xactlock

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Exec runs one statement under the lock of key, in a transaction of its own,
// and commits. It is [Locker.WithTx] for the hottest keys: BEGIN, the lock, the
// statement and COMMIT go to the server in one message (once the connection
// has the statement prepared), so that the lock is held for as long as the
// server executes and for no round trip.
//
// If Exec returns nil, the statement's effects are committed. Its errors are
// those of WithTx; where the statement itself failed, that is the driver's
// error, and nothing is committed. If ctx ends while the answer is awaited,
// the server is asked to cancel; the error is [ErrCommitUnknown], joined with
// ctx's own, where it does not tell in time whether it has.
//
// The statement runs at READ COMMITTED, where it sees all that earlier holders
// committed. At a higher Options.Isolation, with Poll, MaxHold or Plain, and on
// drivers other than pgx, Exec runs as a WithTx.
func (l *Locker) Exec(ctx context.Context, key hashkey.Key, query string, args ...any) (sql.Result, error) {
	e := &execution{query: query, args: args}
	c := l.newCall(key, e.asFunc)
	c.exec = e
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	return e.result, nil
}

// execution is the statement of an Exec.
type execution struct {
	query  string
	args   []any
	result sql.Result
}

// asFunc runs the statement as a WithTx.
func (e *execution) asFunc(ctx context.Context, tx *sql.Tx) (err error) {
	e.result, err = tx.ExecContext(ctx, e.query, e.args...)
	return err
}

// errNotPgx and errSlowLock say that Exec must go on in another way; no caller
// sees them.
var (
	errNotPgx   = errors.New("xactlock: not a connection of pgx")
	errSlowLock = errors.New("xactlock: the lock is not to be had soon")
)

// patienceOfExec is how long an Exec waits on the server next to others. Those
// who do one statement under the lock take turns in much less; so after it,
// somebody who does more has the lock, and one waiter for the key is enough.
const patienceOfExec = 25 * time.Millisecond

// parallelExecs is how many Execs for one key may be on their way at once,
// where the pool has no limit. Elsewhere it is half of the pool.
const parallelExecs = 8

// pipelines reports whether the options let the call be one message.
func (c *call) pipelines() bool {
	return !c.opts.handsOver() && !c.opts.Plain && c.opts.Poll == 0 && c.opts.MaxHold == 0
}

// execLine is a line of its own kind: several heads at a time, as long as they
// get along with each other, and else one that has all their weight.
func (c *call) execLine() lineID {
	heads := int64(parallelExecs)
	if size := c.db.Stats().MaxOpenConnections; size > 0 {
		heads = int64(max(1, size/2))
	}
	id := newLineID(c.keys[0], c.opts.Shared, heads)
	id.exec = true
	return id
}

// pipeline runs an Exec as one message: first next to others, and if the lock
// is not to be had soon, as the only one for the key.
func (c *call) pipeline(ctx, waitCtx context.Context) error {
	line := c.execLine()
	err := c.pipelineInLine(ctx, waitCtx, line, 1)
	if errors.Is(err, errSlowLock) {
		c.contended = true
		err = c.pipelineInLine(ctx, waitCtx, line, line.heads)
	}
	return err
}

func (c *call) pipelineInLine(ctx, waitCtx context.Context, line lineID, weight int64) error {
	counted := c.countQueued()
	_, err := c.queue.enter(waitCtx, line, weight)
	counted()
	if err != nil {
		return c.notAcquired(waitCtx, err)
	}
	defer c.queue.leave(line, weight)
	for alone := weight == line.heads; ; {
		limit := patienceOfExec
		if alone && c.waitQuota(waitCtx) {
			limit = 0
		}
		again, err := c.pipelineOnce(ctx, waitCtx, limit)
		if !again && !(alone && errors.Is(err, errSlowLock)) {
			return err
		}
	}
}

// pipelineOnce runs an Exec on one connection of the pool, where it waits for
// at most limit, if that is not 0.
func (c *call) pipelineOnce(ctx, waitCtx context.Context, limit time.Duration) (again bool, err error) {
	conn, err := c.db.Conn(waitCtx)
	if err != nil {
		return false, c.notAcquired(waitCtx, err)
	}
	defer conn.Close() // fails only where Raw has discarded the connection
	err = errNotPgx
	rawErr := conn.Raw(func(driverConn any) error {
		if !c.session.unwrap(driverConn) {
			return nil
		}
		again, err = c.pipelineOn(ctx, waitCtx, &c.session, limit)
		return c.session.giveBack()
	})
	if rawErr != nil && errors.Is(err, errNotPgx) {
		return false, c.notAcquired(waitCtx, rawErr)
	}
	return again, err
}
