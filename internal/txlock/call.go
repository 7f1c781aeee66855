package txlock

import (
	"context"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// Call is one call. Its user fills in the request, and reads the report when Run
// or Exec has returned or panicked.
type Call struct {
	acquire.Call
	Watchers *Watchers
	MaxHold  time.Duration // >0: fn's ctx ends after it
	Longest  time.Duration // >0: the session ends after it
	OnGrant  func()        // called when the locks are held, before fn; may be nil

	Held    time.Duration
	Outcome Outcome

	watch watch
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
	c.Outcome = RolledBack
	if c.OnGrant != nil {
		c.OnGrant()
	}
	return c.hold(ctx, conn.(Conn))
}

// hold runs fn, now that the transaction on conn holds the lock, and ends the
// transaction. A panic in fn passes through it, to conn.Release.
func (c *Call) hold(ctx context.Context, conn Conn) error {
	if err := c.work(ctx, conn); err != nil {
		return err
	}
	var err error
	c.Outcome, err = conn.Commit(ctx)
	return lockerr.Because(ctx, err)
}

// work runs fn, and returns fn's error, or that of fn's ctx.
func (c *Call) work(ctx context.Context, conn Conn) error {
	if c.MaxHold > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.MaxHold, lockerr.ErrMaxHold)
		defer cancel()
	}
	fnCtx := nesting.With(ctx, nesting.Transaction, c.Owner, c.Keys)
	defer fnCtx.Release()
	c.watch.start(c.Watchers, conn, fnCtx, c.Longest)
	defer c.watch.stop(false) // fn may panic
	err := conn.Run(fnCtx)
	ended := ctx.Err() != nil
	if c.watch.stop(err == nil && time.Since(c.Granted) >= watchEvery) {
		if err == nil && ended {
			err = lockerr.Ended(ctx)
		}
		return lost(c.Keys, err)
	}
	if err == nil && ended {
		return fmt.Errorf("%s: %s: rolled back, because ctx ended inside fn: %w", c.Package, lockerr.Keys(c.Keys), lockerr.Ended(ctx))
	}
	return err
}

// lost is the error of a call whose session is gone, and whose fn returned err.
func lost(keys []hashkey.Key, err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s: nothing is committed", lockerr.ErrLost, lockerr.Keys(keys))
	}
	return fmt.Errorf("%w: %s: nothing is committed (%w)", lockerr.ErrLost, lockerr.Keys(keys), err)
}
