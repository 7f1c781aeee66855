package acquire

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

// Call is one call. Its user fills in the request, and reads the report when
// Acquire has returned.
type Call struct {
	Request
	Report

	ticket        admission.Ticket
	direct        bool          // the lock is known to be wanted: take a seat before asking
	slices        int           // how many waits on the server there were
	asking        time.Duration // what the last question took
	oneLine       [1]admission.Line
	dead, maxDead int // connections of the pool that turned out to be dead
}

// Request is what is asked for.
type Request struct {
	Package string // of the call, for messages
	Pool    Pool
	Queue   *admission.Queue
	Owner   any // the pool, as nested calls are told by it
	Kind    nesting.Kind

	Shared     bool
	Try        bool
	Persists   bool          // a waiter that loses its session waits on another connection
	Keys       []hashkey.Key // sorted, without duplicates, at least one
	Slots      int           // >0: any of so many slots of the one key
	Wait, Poll time.Duration // as in the options
	MaxWaiters int
}

// Report is what became of it.
type Report struct {
	Began          time.Time     // by Begin, if not before
	Queued, Waited time.Duration // in this process; in all
	Contended      bool
	Granted        time.Time // zero if the lock was not
}

// Slice is how long a call waits on the server at a time. A waiter holds a
// snapshot: VACUUM cleans nothing that died since, and CREATE INDEX CONCURRENTLY
// waits for the transaction that has it, for ever if the holder runs it.
const Slice = 500 * time.Millisecond

// Begin begins the report, and returns the ctx of the wait, which Request.Wait
// bounds. It refuses a call that would wait for the call it is nested in.
func (c *Call) Begin(ctx context.Context) (waitCtx context.Context, cancel context.CancelFunc, err error) {
	if c.Began.IsZero() {
		c.Began = time.Now()
	}
	if err := nesting.Refuse(ctx, c.Kind, c.Owner, c.Keys); err != nil {
		return nil, nil, err
	}
	if c.Wait > 0 {
		waitCtx, cancel = context.WithDeadline(ctx, c.Began.Add(c.Wait))
		return waitCtx, cancel, nil
	}
	return ctx, func() {}, nil
}

// End leaves the queue, and ends the report.
func (c *Call) End() {
	c.ticket.End()
	if c.Granted.IsZero() {
		c.Waited = time.Since(c.Began)
	}
}

// Acquire waits for the locks and returns the connection that has them, which
// the caller must release. If the error is not nil, nothing is locked. The caller
// must call End, but not before it has released the connection.
func (c *Call) Acquire(ctx context.Context) (Conn, error) {
	waitCtx, cancel, err := c.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if !c.Try && (c.direct || !(c.Shared && c.alone())) {
		if err := c.Enter(waitCtx, &c.ticket, c.lines()); err != nil {
			return nil, c.NotAcquired(waitCtx, err)
		}
		c.direct = c.waits() && (c.direct || !c.ticket.First())
	}
	for {
		conn, again, err := c.checkOut(ctx, waitCtx)
		if !again {
			return conn, err
		}
	}
}

// Taken notes that the lock was not to be had within a slice, which the server
// has logged.
func (c *Call) Taken() {
	c.Contended, c.direct = true, true
	c.slices++
}

// lines returns the lines of the call's keys.
func (c *Call) lines() []admission.Line {
	lines := c.oneLine[:0]
	for _, key := range c.Keys {
		lines = append(lines, c.Line(key, max(1, c.MaxWaiters)))
	}
	return lines
}

// Line returns the line of one key.
func (c *Call) Line(key hashkey.Key, heads int) admission.Line {
	_, _, pair := key.Pair()
	return admission.Line{Number: key.Int64(), Pair: pair, Shared: c.Shared, Slots: c.Slots, Poll: c.Poll, Heads: heads}
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

// Enter waits until the call is head of lines.
func (c *Call) Enter(waitCtx context.Context, t *admission.Ticket, lines []admission.Line) error {
	began := time.Now()
	err := t.Enter(waitCtx, c.Queue, lines)
	c.Queued += time.Since(began)
	return err
}

// checkOut takes one connection from the pool and asks for the lock there. It
// reports whether to try again on another connection.
func (c *Call) checkOut(ctx, waitCtx context.Context) (_ Conn, again bool, err error) {
	wait := c.direct
	if wait {
		c.Contended = true
		wait = c.reserve(waitCtx)
	}
	defer c.ticket.Asked()
	conn, again, err := c.Conn(waitCtx)
	if conn == nil {
		return nil, again, err
	}
	held := false
	defer func() {
		if !held {
			conn.Release(ctx)
		}
	}()
	granted, answered, err := c.open(waitCtx, conn, wait)
	switch {
	case err != nil && conn.Closed() && (c.Persists || !answered) && c.Died(waitCtx):
		return nil, true, nil
	case err != nil:
		return nil, false, c.NotAcquired(waitCtx, err)
	case granted && waitCtx.Err() != nil: // just then
		return nil, false, c.NotAcquired(waitCtx, nil)
	case granted:
		held = true
		c.Granted = time.Now()
		c.Waited = c.Granted.Sub(c.Began)
		c.ticket.Granted()
		return conn, false, nil
	}
	conn.Release(ctx) // before the call sleeps, or queues
	again, err = c.refused(waitCtx)
	return nil, again, err
}

// Conn takes a connection from the pool. Without one, it reports whether to try
// again.
func (c *Call) Conn(waitCtx context.Context) (conn Conn, again bool, err error) {
	conn, err = c.Pool.Conn(waitCtx)
	switch {
	case err == nil:
		return conn, false, nil
	case errors.Is(err, driver.ErrBadConn) && c.Died(waitCtx):
		return nil, true, nil
	}
	return nil, false, c.NotAcquired(waitCtx, err)
}

// open asks for the lock on conn, or waits for it there, in slices, for as long
// as the call may. answered reports whether the server has answered once: then
// the connection had not died in the pool.
func (c *Call) open(waitCtx context.Context, conn Conn, wait bool) (granted, answered bool, err error) {
	// A lock that is given back at once is free by now more often than not, and
	// where it is not, there is time to wait after the question.
	if !wait || c.slices == 0 {
		began := time.Now()
		granted, err = conn.Open(waitCtx, Opening{})
		c.asking = time.Since(began)
		answered = err == nil
	}
	for err == nil && !granted && (wait || c.waitsHere()) && waitCtx.Err() == nil {
		wait, c.Contended = false, true
		granted, err = conn.Open(waitCtx, Opening{Wait: true, Limit: NextSlice(waitCtx), Quiet: c.slices > 0})
		c.slices++
		answered = answered || err == nil
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

// waitsHere reports whether the call may wait on the connection that it has, now
// that its try was refused.
func (c *Call) waitsHere() bool {
	return c.waits() && c.ticket.InLine() && c.ticket.TryReserve()
}

// refused decides what to do after a refusal on a connection where the call
// cannot wait: a try returns ErrNotAcquired, any other call joins the queue, and one
// that polls sleeps.
func (c *Call) refused(waitCtx context.Context) (again bool, err error) {
	c.Contended = true
	switch {
	case c.Try:
		return false, fmt.Errorf("%w: %s", lockerr.ErrNotAcquired, lockerr.Keys(c.Keys))
	case lockerr.AtDeadline(waitCtx) || waitCtx.Err() != nil:
		return false, c.NotAcquired(waitCtx, nil)
	}
	sleeps := c.Poll > 0
	if !c.ticket.InLine() {
		if err := c.Enter(waitCtx, &c.ticket, c.lines()); err != nil {
			return false, c.NotAcquired(waitCtx, err)
		}
		sleeps = sleeps && c.ticket.First() // or else the one before it may have been granted the lock
	}
	if sleeps && !Sleep(waitCtx, c.pause(waitCtx)) {
		return false, c.NotAcquired(waitCtx, nil)
	}
	c.direct = c.waits()
	return true, nil
}

// pause returns how long a polling call sleeps. The last question comes so long
// before the deadline that it can be answered.
func (c *Call) pause(waitCtx context.Context) time.Duration {
	const margin = 10 * time.Millisecond
	deadline, ok := waitCtx.Deadline()
	if !ok {
		return c.Poll
	}
	last := time.Until(deadline) - 2*c.asking - margin
	if last <= 0 {
		return c.Poll // past the deadline
	}
	return min(c.Poll, last)
}

// Died reports whether to take another connection, now that one has turned out
// to be dead, as all that are idle in the pool are when the server restarts. It
// had no lock, or has taken it with it. There is a limit to that, for a server
// or a network on which every connection dies at once.
func (c *Call) Died(waitCtx context.Context) bool {
	const more = 3 // than the pool had
	if c.dead == 0 {
		c.maxDead = c.Pool.OpenConnections() + more
	}
	c.dead++
	return waitCtx.Err() == nil && c.dead <= c.maxDead
}

// NotAcquired returns the error of a call that ends before the grant.
func (c *Call) NotAcquired(waitCtx context.Context, err error) error {
	return lockerr.AcquireError(waitCtx, c.Package, c.Keys, err)
}

// UntilDeadline returns the time that ctx leaves, at least a millisecond, or 0 where
// it has no deadline.
func UntilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}

// NextSlice returns how long the next wait on the server may be.
func NextSlice(ctx context.Context) time.Duration {
	if left := UntilDeadline(ctx); left > 0 {
		return min(left, Slice)
	}
	return Slice
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
