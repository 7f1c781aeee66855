package txlock

import (
	"context"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// Call is one call. Its user fills in the request, and reads the report when Run
// or Exec has returned or panicked.
type Call struct {
	acquire.Call
	MaxHold time.Duration // >0: fn's ctx ends after it
	Longest time.Duration // >0: the session ends after it

	Held    time.Duration
	Outcome Outcome
}

// Run waits for the locks, and runs fn while they are held.
func (c *Call) Run(ctx context.Context) error {
	c.Outcome = Failed
	defer c.end()
	return c.run(ctx)
}

// end leaves the queue, and ends the report.
func (c *Call) end() {
	c.End()
	if !c.Granted.IsZero() {
		c.Held = time.Since(c.Granted)
	}
}

func (c *Call) run(ctx context.Context) error {
	conn, err := c.Acquire(ctx)
	if err != nil {
		c.Outcome = OutcomeBefore(err)
		return err
	}
	defer conn.Release(ctx)
	return c.hold(ctx, conn.(Conn))
}

// hold runs fn, now that the transaction on conn holds the lock, and ends the
// transaction. A panic in fn passes through it, to conn.Release.
func (c *Call) hold(ctx context.Context, conn Conn) error {
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
	fnCtx, end := context.WithCancelCause(mark)
	defer end(nil)
	if c.MaxHold > 0 {
		var cancel context.CancelFunc
		fnCtx, cancel = context.WithTimeoutCause(fnCtx, c.MaxHold, lockerr.ErrMaxHold)
		defer cancel()
	}
	w := startWatch(conn, end, c.Longest)
	defer func() { w.stop(0) }() // fn may panic
	err := conn.Run(fnCtx)
	switch lost := w.stop(time.Since(c.Granted)); {
	case lost && err != nil:
		return fmt.Errorf("%w: %s: nothing is committed (%w)", lockerr.ErrLost, lockerr.Keys(c.Keys), err)
	case lost:
		return fmt.Errorf("%w: %s: nothing is committed", lockerr.ErrLost, lockerr.Keys(c.Keys))
	case err != nil:
		return err
	case fnCtx.Err() != nil:
		return fmt.Errorf("xactlock: %s: rolled back, because ctx ended inside fn: %w", lockerr.Keys(c.Keys), lockerr.Ended(fnCtx))
	}
	return nil
}
