package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/held"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

var (
	errNilDB   = errors.New("xactlock: New was given a nil *sql.DB")
	errNilFunc = errors.New("xactlock: fn is nil")
	errNoKeys  = errors.New("xactlock: no keys")

	errMaxHold  = errors.New("xactlock: Options.MaxHold is over")
	errPanicked = errors.New("xactlock: fn panicked")                // seen by no caller
	errRefused  = errors.New("xactlock: somebody else has the lock") // seen by no caller
	errDead     = errors.New("xactlock: the connection was dead")    // seen by no caller
)

// call is one WithTx, from the call to its end. What it needs on the way is part
// of it, so that all of that is one allocation.
type call struct {
	*Locker
	keys []hashkey.Key
	fn   Func
	try  bool
	exec *execution // where fn is that of Exec

	place          place
	direct         bool // the lock is known to be taken: wait for it without asking first
	ran            bool // fn was called
	dead, mostDead int  // connections of the pool that turned out to be dead

	session session
	mark    held.Context
	oneKey  [1]hashkey.Key
	oneLine [1]lineID

	panicked   bool
	panicValue any

	began, granted time.Time // for Observe, as is queued
	queued         time.Duration
	contended      bool
	outcome        Outcome
}

// newCall returns a call for one key.
func (l *Locker) newCall(key hashkey.Key, fn Func) *call {
	c := &call{Locker: l, fn: fn, oneKey: [1]hashkey.Key{key}}
	c.keys = c.oneKey[:]
	return c
}

func (c *call) run(ctx context.Context) (err error) {
	c.outcome, c.place.queue = Failed, c.queue
	if c.opts.Observe != nil {
		c.began = time.Now()
		defer func() { c.observe(err) }()
	}
	if err := c.check(ctx); err != nil {
		return err
	}
	defer c.place.end()
	waitCtx := ctx
	if c.opts.Wait > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, c.opts.Wait)
		defer cancel()
	}
	if c.exec != nil && c.pipelines() {
		if err := c.exec.run(c, ctx, waitCtx); !errors.Is(err, errNotPgx) {
			return err
		}
	}
	err = c.acquireAndRun(ctx, waitCtx)
	if c.panicked {
		err = nil
		panic(c.panicValue)
	}
	return err
}

func (c *call) check(ctx context.Context) error {
	switch {
	case c.invalid != nil:
		return c.invalid
	case c.fn == nil:
		return errNilFunc
	case len(c.keys) == 0:
		return errNoKeys
	case held.Nested(ctx, c.db, c.keys):
		return fmt.Errorf("%w: %s", ErrNested, lockerr.Keys(c.keys))
	}
	return nil
}

// acquireAndRun checks connections out until the lock is granted on one and fn
// has run there, or the wait is over.
func (c *call) acquireAndRun(ctx, waitCtx context.Context) error {
	if !c.try && !(c.opts.Shared && c.nobodyQueues()) {
		if err := c.lineUp(waitCtx); err != nil {
			return c.notAcquired(waitCtx, err)
		}
		c.direct = c.waits() && !c.place.first
	}
	for {
		again, err := c.checkOut(ctx, waitCtx)
		if !again {
			return err
		}
	}
}

// checkOut takes one connection from the pool, asks for the lock there and
// runs fn if it is granted. It reports whether to try again on another one.
func (c *call) checkOut(ctx, waitCtx context.Context) (again bool, err error) {
	if c.direct {
		c.contended = true
		c.direct = c.waitQuota(waitCtx)
	}
	conn, err := c.db.Conn(waitCtx)
	if errors.Is(err, driver.ErrBadConn) && c.diedInPool(waitCtx) {
		return true, nil // somebody has handed on a dead one
	}
	if err != nil {
		return false, c.notAcquired(waitCtx, err)
	}
	again, err = c.onConn(ctx, waitCtx, conn)
	if errors.Is(err, errRefused) {
		return c.refused(waitCtx)
	}
	return again, err
}

// onConn does the same on conn, and gives it back.
func (c *call) onConn(ctx, waitCtx context.Context, conn *sql.Conn) (again bool, err error) {
	defer conn.Close() // fails only where Raw has discarded the connection
	pgx := false
	if !c.opts.Plain {
		rawErr := conn.Raw(func(driverConn any) error {
			if pgx = c.session.unwrap(driverConn); !pgx {
				return nil
			}
			again, err = c.onSession(ctx, waitCtx, &c.session)
			return c.session.giveBack()
		})
		if rawErr != nil && !pgx {
			return false, c.notAcquired(waitCtx, rawErr)
		}
	}
	if !pgx {
		err = c.onPlain(ctx, waitCtx, conn)
		discardDead(conn)
		if err == errDead {
			return true, nil
		}
	}
	return again, err
}

// diedInPool reports whether to take another connection, now that one has
// turned out to be dead on first use, as all that are idle do when the server
// restarts. It had no lock, or has taken it with it. There is a limit to that,
// for a server or a network on which every connection dies at once.
func (c *call) diedInPool(waitCtx context.Context) bool {
	if c.dead == 0 {
		const slack = 3
		c.mostDead = c.db.Stats().OpenConnections + slack
	}
	c.dead++
	return waitCtx.Err() == nil && c.dead <= c.mostDead
}

// refused is what a call does whose try was refused and that could not go on
// to wait on the same connection: a try gives up, a poll sleeps, and who is to
// wait finds a place to.
func (c *call) refused(waitCtx context.Context) (again bool, err error) {
	c.contended = true
	if c.try {
		c.outcome = NotAcquired
		return false, fmt.Errorf("%w: %s", ErrNotAcquired, lockerr.Keys(c.keys))
	}
	if c.opts.Poll > 0 {
		if !sleep(waitCtx, c.opts.Poll) {
			return false, c.notAcquired(waitCtx, nil)
		}
		return true, nil
	}
	if !c.place.inLine() {
		if err := c.lineUp(waitCtx); err != nil {
			return false, c.notAcquired(waitCtx, err)
		}
	}
	c.direct = true
	return true, nil
}

// waits reports whether the call queues on the server when a try is refused.
func (c *call) waits() bool { return !c.try && c.opts.Poll == 0 }

// waitsHere reports whether the call, whose try was refused, may wait on the
// connection it has.
func (c *call) waitsHere() bool {
	return c.waits() && c.place.inLine() && c.place.tryQuota()
}

// notAcquired returns the error of a call that ends before the grant.
func (c *call) notAcquired(waitCtx context.Context, err error) error {
	err = lockerr.Acquire(waitCtx, "xactlock", c.keys, err)
	c.outcome = outcomeBefore(err)
	return err
}

// outcomeBefore is the outcome of a call that ended before the grant with err.
func outcomeBefore(err error) Outcome {
	if errors.Is(err, ErrNotAcquired) {
		return NotAcquired
	}
	return Failed
}

// hold runs fn, now that tx holds the lock, and returns fn's error, or why the
// transaction must not commit though fn returned nil. end is called if fn ends
// the goroutine, which no code after this call would see.
func (c *call) hold(ctx context.Context, tx *sql.Tx, end func()) error {
	if c.opts.Observe != nil {
		c.granted = time.Now()
	}
	c.place.granted()
	c.ran, c.outcome = true, RolledBack
	c.mark.Mark(ctx, held.Transaction, c.db, c.keys)
	defer c.mark.Release()
	fnCtx := context.Context(&c.mark)
	if c.opts.MaxHold > 0 {
		var cancel context.CancelFunc
		fnCtx, cancel = context.WithTimeoutCause(fnCtx, c.opts.MaxHold, errMaxHold)
		defer cancel()
	}
	if err := c.call(fnCtx, tx, end); err != nil {
		return err
	}
	if err := fnCtx.Err(); err != nil {
		if cause := context.Cause(fnCtx); !errors.Is(cause, err) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		return fmt.Errorf("xactlock: %s: rolled back, because ctx ended inside fn: %w", lockerr.Keys(c.keys), err)
	}
	return nil
}

// call calls fn. A panic is caught, so that the connection can be cleaned and
// kept, and raised again by run. runtime.Goexit cannot be caught: end is
// called on its way out.
func (c *call) call(ctx context.Context, tx *sql.Tx, end func()) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if c.panicValue = recover(); c.panicValue != nil {
			c.panicked = true
			err = errPanicked
			return
		}
		end()
	}()
	err = c.fn(ctx, tx)
	returned = true
	return err
}

func (c *call) observe(err error) {
	now := time.Now()
	e := Event{
		Keys:      c.keys,
		Shared:    c.opts.Shared,
		Queued:    c.queued,
		Waited:    now.Sub(c.began),
		Contended: c.contended,
		Outcome:   c.outcome,
		Err:       err,
	}
	if !c.granted.IsZero() {
		e.Waited, e.Held = c.granted.Sub(c.began), now.Sub(c.granted)
	}
	c.opts.Observe(e)
}
