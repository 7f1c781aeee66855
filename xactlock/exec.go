package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
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
// Execs of one Locker for one key that come faster than the server answers
// share messages, each with a transaction of its own; two connections are in
// use for them, however many there are (with Shared, at most half of the pool).
// If one of them gives up while the message is on its way, the statement that
// then runs is cancelled; where that is another's, it is rolled back and runs
// once more.
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

	call         *call
	ctx, waitCtx context.Context
	placeInLine
}

// asFunc runs the statement as a WithTx.
func (e *execution) asFunc(ctx context.Context, tx *sql.Tx) (err error) {
	e.result, err = tx.ExecContext(ctx, e.query, e.args...)
	return err
}

// pipelines reports whether the options let the call be one message.
func (c *call) pipelines() bool {
	return !c.opts.handsOver() && !c.opts.Plain && c.opts.Poll == 0 && c.opts.MaxHold == 0
}

// errNotPgx says that Exec must go on in another way; no caller sees it.
var errNotPgx = errors.New("xactlock: not a connection of pgx")

// patienceOfExec is how long an Exec waits on the server next to others. Those
// who do one statement under the lock take turns in much less; so after it,
// somebody who does more has the lock, and one waiter for the key is enough.
const patienceOfExec = 25 * time.Millisecond

// run runs the Exec of c in one message, of its own or shared with others.
func (e *execution) run(c *call, ctx, waitCtx context.Context) error {
	e.call, e.ctx, e.waitCtx = c, ctx, waitCtx
	c.queue.enterExec(e)
	var f fate
	for over := false; !over; {
		switch e.await() {
		case leading:
			f, over = e.lead()
		case answered:
			f, over = e.fate, true
		case withdrawn:
			f, over = e.before(nil), true
		case left:
			err := fmt.Errorf("%w: %s: %w", ErrCommitUnknown, lockerr.Keys(c.keys), ctx.Err())
			f, over = fate{outcome: Unknown, err: err}, true
		}
	}
	c.outcome, c.queued, c.contended = f.outcome, e.queued, e.contended
	e.result = f.result
	return f.err
}

// before is the fate of an Exec that got no further than err.
func (e *execution) before(err error) fate {
	err = lockerr.Acquire(e.waitCtx, "xactlock", e.call.keys, err)
	return fate{outcome: outcomeBefore(err), err: err}
}

// lead gets a connection, takes those along who have come meanwhile, and goes.
// It is not over if it must go again, or has others with it: then it waits for
// its part of the answer as they do.
func (e *execution) lead() (f fate, over bool) {
	var a arrival
	defer func() { e.line.arrive(e, a) }() // even if a parameter panics while it is encoded
	limit := patienceOfExec
	if e.exclusive && e.call.waitQuota(e.waitCtx) {
		limit = 0
	}
	conn, err := e.call.db.Conn(e.waitCtx)
	switch {
	case errors.Is(err, driver.ErrBadConn) && e.call.diedInPool(e.waitCtx):
		a.again = true // somebody has handed on a dead one
		return f, false
	case err != nil:
		return e.before(err), true
	}
	if convoy := e.line.gather(e); convoy != nil {
		a.convoy = true
		go convoy.run(conn)
		return f, false
	}
	defer conn.Close() // fails only where Raw has discarded the connection
	f, a.took = e.runOn(conn, limit)
	a.slow = f.slow
	a.again = f.slow || f.again && e.call.diedInPool(e.waitCtx)
	return f, !a.again
}

// runOn runs an Exec in a message of its own.
func (e *execution) runOn(conn *sql.Conn, limit time.Duration) (f fate, took time.Duration) {
	c := e.call
	err := errNotPgx
	rawErr := conn.Raw(func(driverConn any) error {
		s := &c.session
		if !s.unwrap(driverConn) {
			return nil
		}
		if err = s.pretends(); err != nil {
			err = fmt.Errorf("%w: %s", err, lockerr.Keys(c.keys))
			return s.giveBack()
		}
		var p pipeline
		p.add(e, limit)
		took = p.run(e.ctx, s)
		f = p.parts[0].fate
		return s.giveBack()
	})
	switch {
	case rawErr != nil && err == errNotPgx:
		return e.before(rawErr), 0
	case err != nil:
		return fate{outcome: Failed, err: err}, 0
	}
	return f, took
}
