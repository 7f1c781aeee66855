package txlock

import (
	"context"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// Exec runs fn, which is one statement, in one message with the lock and COMMIT,
// and returns its command tag. Of the Execs for one key at most half
// of the pool is under way, and 8, first come, first served. They wait for each other
// on the server; one that finds the lock held for longer than a slice waits as
// Run does, while no other is under way.
//
// Where the statement cannot go in one message, Exec runs as Run, and oneMessage
// is false.
func (c *Call) Exec(ctx context.Context) (tag string, oneMessage bool, err error) {
	c.Outcome = Failed
	defer c.end()
	waitCtx, cancel, err := c.Begin(ctx)
	if err != nil {
		return "", false, err
	}
	defer cancel()
	var turn admission.Ticket
	defer turn.End()
	if err := c.Enter(waitCtx, &turn, c.execLine()); err != nil {
		return "", true, c.notAcquired(waitCtx, err)
	}
	c.Contended = !turn.First()
	if !turn.TryReserve() && !turn.Quick() {
		// All calls that may wait on the server do. This one asks first.
		return "", false, c.run(ctx)
	}
	for {
		e, again, err := c.execOnce(ctx, waitCtx, &turn)
		switch {
		case again:
			continue
		case err != nil:
			return "", true, err
		case e.Unfit:
			turn.End()
			return "", false, c.run(ctx)
		case e.Busy:
			turn.Stand() // Run has a seat of its own
			c.Taken()
			return "", false, c.run(ctx)
		}
		if e.Outcome == NotAcquired && lockerr.WaitEnded(e.Err) {
			c.Contended = true
		}
		c.Outcome = e.Outcome
		return e.Tag, true, e.Err
	}
}

// mostExecs bounds the Execs for one key that are under way. With more of them
// the server spends more on putting processes to sleep than their round trips
// take: 8 made a tenth to a half more turns than 16, on two cores.
const mostExecs = 8

// execLine returns the line of an Exec.
func (c *Call) execLine() []admission.Line {
	line := c.Line(c.Keys[0], min(mostExecs, c.Queue.Half()))
	line.Exec = true
	return []admission.Line{line}
}

// notAcquired returns the error of an Exec that ends before the grant.
func (c *Call) notAcquired(waitCtx context.Context, err error) error {
	err = c.NotAcquired(waitCtx, err)
	c.Outcome = OutcomeBefore(err)
	return err
}

// execOnce sends the message on one connection of the pool. It reports whether
// to try again on another one.
func (c *Call) execOnce(ctx, waitCtx context.Context, turn *admission.Ticket) (e Executed, again bool, err error) {
	conn, again, err := c.Conn(waitCtx)
	if conn == nil {
		if err != nil {
			c.Outcome = OutcomeBefore(err)
		}
		return e, again, err
	}
	defer conn.Release(ctx)
	execer, ok := conn.(Execer)
	if !ok {
		return Executed{Unfit: true}, false, nil
	}
	began := time.Now()
	c.Outcome = Unknown // if what Exec calls panics
	e = execer.Exec(ctx, waitCtx, acquire.NextSlice(waitCtx))
	c.Outcome = Failed // until it is known
	turn.Took(time.Since(began))
	return e, e.Dead && c.Died(waitCtx), nil
}
