package txlock

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// Call is one call. Its user fills in the request, and reads the report when Run
// or Exec has returned or panicked.
type Call struct {
	Request
	Report

	began, granted time.Time
	ticket         admission.Ticket
	direct         bool // the lock is known to be taken: wait for it without asking first
	slices         int  // how many waits on the server there were
	oneLine        [1]admission.Line
	dead, maxDead  int // connections of the pool that turned out to be dead
}

// Request is what is asked for.
type Request struct {
	Pool  Pool
	Queue *admission.Queue
	Owner any // the pool, as nested calls are told by it

	Keys       []hashkey.Key // sorted, without duplicates, at least one
	Shared     bool
	Try        bool
	Wait, Poll time.Duration // as in xactlock.Options
	MaxHold    time.Duration
	MaxWaiters int
}

// Report is what became of it.
type Report struct {
	Queued, Waited, Held time.Duration
	Contended            bool
	Outcome              Outcome
}

// ErrMaxHold is the cause with which fn's ctx ends after MaxHold.
var ErrMaxHold = errors.New("xactlock: Options.MaxHold is over")

// slice is how long a call waits on the server at a time. A waiter holds a
// snapshot: VACUUM cleans nothing that died since, and CREATE INDEX CONCURRENTLY
// waits for the transaction that has it, for ever if the holder runs it.
const slice = 500 * time.Millisecond

// Run waits for the locks, and runs fn while they are held.
func (c *Call) Run(ctx context.Context) error {
	c.Outcome, c.began = Failed, time.Now()
	defer c.end()
	return c.run(ctx)
}

// end leaves the queue, and ends the report.
func (c *Call) end() {
	c.ticket.End()
	if c.granted.IsZero() {
		c.Waited = time.Since(c.began)
	} else {
		c.Held = time.Since(c.granted)
	}
}

func (c *Call) run(ctx context.Context) error {
	if nesting.Refuses(ctx, c.Owner, c.Keys) {
		return fmt.Errorf("%w: %s", lockerr.ErrNested, lockerr.Keys(c.Keys))
	}
	waitCtx, cancel := c.waitContext(ctx)
	defer cancel()
	if !c.Try && (c.direct || !(c.Shared && c.alone())) {
		if err := c.enter(waitCtx, &c.ticket, c.lines()); err != nil {
			return c.notAcquired(waitCtx, err)
		}
		c.direct = c.waits() && (c.direct || !c.ticket.First())
	}
	for {
		again, err := c.checkOut(ctx, waitCtx)
		if !again {
			return err
		}
	}
}

// waitContext returns the ctx of the wait: Request.Wait bounds it.
func (c *Call) waitContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.Wait > 0 {
		return context.WithDeadline(ctx, c.began.Add(c.Wait))
	}
	return ctx, func() {}
}

// lines returns the lines of the call's keys.
func (c *Call) lines() []admission.Line {
	lines := c.oneLine[:0]
	for _, key := range c.Keys {
		_, _, pair := key.Pair()
		lines = append(lines, admission.Line{Number: key.Int64(), Pair: pair, Shared: c.Shared, Heads: max(1, c.MaxWaiters)})
	}
	return lines
}

// alone reports whether all the call's lines are empty. Readers only queue
// behind other readers that do: many may be granted at once, where of writers it
// can only be one.
func (c *Call) alone() bool {
	for _, id := range c.lines() {
		if !c.Queue.Empty(id) {
			return false
		}
	}
	return true
}

// enter waits until the call is head of lines.
func (c *Call) enter(waitCtx context.Context, t *admission.Ticket, lines []admission.Line) error {
	began := time.Now()
	err := t.Enter(waitCtx, c.Queue, lines)
	c.Queued += time.Since(began)
	return err
}

// checkOut takes one connection from the pool, asks for the lock there and runs
// fn if it is granted. It reports whether to try again on another connection.
func (c *Call) checkOut(ctx, waitCtx context.Context) (again bool, err error) {
	wait := c.direct
	if wait {
		c.Contended = true
		wait = c.reserve(waitCtx)
	}
	defer c.ticket.Asked()
	conn, again, err := c.conn(waitCtx)
	if conn == nil {
		return again, err
	}
	defer conn.Release(ctx)
	granted, answered, err := c.open(waitCtx, conn, wait)
	switch {
	case err != nil && !answered && conn.Closed() && c.diedInPool(waitCtx):
		return true, nil
	case err != nil:
		return false, c.notAcquired(waitCtx, err)
	case granted && waitCtx.Err() != nil: // just then
		return false, c.notAcquired(waitCtx, nil)
	case granted:
		return false, c.hold(ctx, conn)
	}
	conn.Release(ctx) // before the call sleeps, or queues
	return c.refused(waitCtx)
}

// conn takes a connection from the pool. Without one, it reports whether to try
// again.
func (c *Call) conn(waitCtx context.Context) (conn Conn, again bool, err error) {
	conn, err = c.Pool.Conn(waitCtx)
	switch {
	case err == nil:
		return conn, false, nil
	case errors.Is(err, driver.ErrBadConn) && c.diedInPool(waitCtx):
		return nil, true, nil
	}
	return nil, false, c.notAcquired(waitCtx, err)
}

// open asks for the lock on conn, or waits for it there, in slices, for as long
// as the call may. answered reports whether the server has answered once: then
// the connection had not died in the pool.
func (c *Call) open(waitCtx context.Context, conn Conn, wait bool) (granted, answered bool, err error) {
	if !wait {
		granted, err = conn.Open(waitCtx, Opening{})
		answered = err == nil
	}
	for err == nil && !granted && (wait || c.waitsHere()) && waitCtx.Err() == nil {
		wait, c.Contended = false, true
		granted, err = conn.Open(waitCtx, Opening{Wait: true, Limit: untilDeadline(waitCtx, slice), Quiet: c.slices > 0})
		answered = answered || err == nil
		c.slices++
		if !granted {
			c.ticket.Waited()
		}
	}
	return granted, answered, err
}

// reserve waits for a seat, and reports whether the call may wait on the server.
// If not, it asks there without waiting.
func (c *Call) reserve(waitCtx context.Context) bool {
	began := time.Now()
	ok := c.ticket.Reserve(waitCtx)
	c.Queued += time.Since(began)
	return ok
}

// waits reports whether the call queues on the server when a try is refused.
func (c *Call) waits() bool { return !c.Try && c.Poll == 0 }

// waitsHere reports whether the call, whose try was refused, may wait on the
// connection it has.
func (c *Call) waitsHere() bool {
	return c.waits() && c.ticket.InLine() && c.ticket.TryReserve()
}

// refused decides what to do after a refusal on a connection where the call
// cannot wait: a try returns ErrNotAcquired, a polling call sleeps, any other
// call joins the queue.
func (c *Call) refused(waitCtx context.Context) (again bool, err error) {
	c.Contended = true
	switch {
	case c.Try:
		c.Outcome = NotAcquired
		return false, fmt.Errorf("%w: %s", lockerr.ErrNotAcquired, lockerr.Keys(c.Keys))
	case lockerr.AtDeadline(waitCtx) || waitCtx.Err() != nil:
		return false, c.notAcquired(waitCtx, nil)
	case c.Poll > 0:
		if !Sleep(waitCtx, c.Poll) {
			return false, c.notAcquired(waitCtx, nil)
		}
		return true, nil
	case !c.ticket.InLine():
		if err := c.enter(waitCtx, &c.ticket, c.lines()); err != nil {
			return false, c.notAcquired(waitCtx, err)
		}
	}
	c.direct = true
	return true, nil
}

// diedInPool reports whether to take another connection, now that one has turned
// out to be dead on first use, as all that are idle do when the server restarts.
// It had no lock, or has taken it with it. There is a limit to that, for a
// server or a network on which every connection dies at once.
func (c *Call) diedInPool(waitCtx context.Context) bool {
	if c.dead == 0 {
		c.maxDead = lockerr.DeadBudget(c.Pool.OpenConnections())
	}
	c.dead++
	return waitCtx.Err() == nil && c.dead <= c.maxDead
}

// notAcquired returns the error of a call that ends before the grant.
func (c *Call) notAcquired(waitCtx context.Context, err error) error {
	err = lockerr.AcquireError(waitCtx, "xactlock", c.Keys, err)
	c.Outcome = OutcomeBefore(err)
	return err
}

// hold runs fn, now that the transaction on conn holds the lock, and ends the
// transaction. A panic in fn passes through it, to conn.Release.
func (c *Call) hold(ctx context.Context, conn Conn) error {
	c.granted = time.Now()
	c.Waited = c.granted.Sub(c.began)
	c.ticket.Granted()
	c.Outcome = RolledBack
	if err := c.work(ctx, conn); err != nil {
		return err
	}
	var err error
	c.Outcome, err = conn.Commit(ctx)
	return lockerr.Because(ctx, err)
}

// work runs fn, and returns fn's error, or that of fn's ctx.
func (c *Call) work(ctx context.Context, conn Conn) error {
	mark := nesting.With(ctx, nesting.Transaction, c.Owner, c.Keys)
	defer mark.Release()
	fnCtx := context.Context(mark)
	if c.MaxHold > 0 {
		var cancel context.CancelFunc
		fnCtx, cancel = context.WithTimeoutCause(fnCtx, c.MaxHold, ErrMaxHold)
		defer cancel()
	}
	if err := conn.Run(fnCtx); err != nil {
		return err
	}
	if fnCtx.Err() != nil {
		return fmt.Errorf("xactlock: %s: rolled back, because ctx ended inside fn: %w", lockerr.Keys(c.Keys), lockerr.Ended(fnCtx))
	}
	return nil
}

// untilDeadline returns the time that ctx leaves, at least a millisecond and at
// most the given one.
func untilDeadline(ctx context.Context, most time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return most
	}
	return min(max(time.Until(deadline), time.Millisecond), most)
}

// Sleep sleeps for d and reports whether ctx let it.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
