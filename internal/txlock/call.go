package txlock

import (
	"cmp"
	"context"
	"errors"
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
	MaxHold time.Duration // >0: fn's ctx ends after it
	Longest time.Duration // >0: the session ends after it
	Plain   bool          // for the report

	Held    time.Duration
	Outcome Outcome

	oneKey [1]hashkey.Key // room for Keys
	watch  watch

	listener *Listener
	op       string
	onGrant  func() // nil where there is no tracer
}

// Do runs the call, or returns bad, which is why there can be none, and tells l of
// it all.
func (c *Call) Do(ctx context.Context, l *Listener, op string, bad error) (err error) {
	ctx = c.Tell(ctx, l, op)
	defer func() { c.Told(ctx, err) }()
	if bad != nil {
		return bad
	}
	return c.Run(ctx)
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
	// fn's ctx ends later than conn.Release: rows that fn has left open end with it.
	bounded := ctx
	if c.MaxHold > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeoutCause(ctx, c.MaxHold, lockerr.ErrMaxHold)
		defer cancel()
	}
	fnCtx := nesting.With(bounded, nesting.Transaction, c.Owner, c.Keys)
	defer fnCtx.Release()
	defer conn.Release(ctx)
	c.Outcome = RolledBack
	c.tellGranted()
	return c.hold(ctx, fnCtx, conn.(Conn))
}

// hold runs fn, now that the transaction on conn holds the lock, and ends the
// transaction. A panic in fn passes through it, to conn.Release.
func (c *Call) hold(ctx context.Context, fnCtx *nesting.Context, conn Conn) (err error) {
	defer c.watch.stop() // fn may panic
	returned := false
	defer func() {
		if !returned {
			if outcome, _ := conn.Refuse(ctx); outcome == Unknown {
				c.Outcome = Unknown
			}
		}
	}()
	w := c.work(fnCtx, conn)
	returned = true
	outcome, refusal := conn.Refuse(ctx) // which waits for what fn has left running
	w.lost = c.watch.stop()
	switch {
	case outcome == Unknown:
		c.Outcome = Unknown
		return w.ended(refusal)
	case w.lost, errors.Is(refusal, lockerr.ErrLost) && w.why() != nil:
		return lockerr.Lost(c.Keys, w.why())
	case w.err != nil:
		return w.err
	case w.ctxErr != nil:
		return fmt.Errorf("%s: %s: rolled back, because ctx ended inside fn: %w", c.Package, lockerr.Keys(c.Keys), w.ctxErr)
	case refusal != nil:
		c.Outcome = outcome
		return lockerr.Because(ctx, refusal)
	}
	c.Outcome = Unknown // if what Commit calls panics
	c.Outcome, err = conn.Commit(ctx)
	return lockerr.Because(ctx, err)
}

// worked is what became of fn.
type worked struct {
	err    error // that fn returned
	ctxErr error // of fn's ctx, if that ended meanwhile
	lost   bool  // the session is gone
}

// why returns the error to report with another one: fn's, or that of fn's ctx. That
// the session is gone is said without it.
func (w *worked) why() error {
	if err := cmp.Or(w.err, w.ctxErr); err != lockerr.ErrLost {
		return err
	}
	return nil
}

// ended returns the error of the call where fn has ended the transaction, as
// refusal says. A loss is no ErrLost then, which says that nothing is committed.
func (w *worked) ended(refusal error) error {
	why := w.why()
	switch {
	case errors.Is(why, lockerr.ErrTxEnded):
		return why
	case why != nil:
		return fmt.Errorf("%w (%w)", refusal, why)
	case w.lost:
		return fmt.Errorf("%w; its session is gone", refusal)
	}
	return refusal
}

// work runs fn with ctx, and begins the watch over its session.
func (c *Call) work(ctx *nesting.Context, conn Conn) (w worked) {
	c.watch.start(conn, ctx, c.Longest)
	w.err = conn.Run(ctx)
	if own := nesting.Caller(ctx); own.Err() != nil {
		w.ctxErr = lockerr.Ended(own)
	}
	if w.err != nil || time.Since(c.Granted) >= every {
		c.watch.look()
	}
	return w
}

// Tell tells l of the start of the call, and returns the ctx to go on with.
func (c *Call) Tell(ctx context.Context, l *Listener, op string) context.Context {
	c.listener, c.op, c.Began = l, op, time.Now()
	if l == nil || l.Start == nil {
		return ctx
	}
	traced := l.Start(ctx, c.report(c.Outcome, nil))
	c.onGrant = func() { l.Granted(traced, c.report(Granted, nil)) }
	return traced
}

// Told tells of the end of the call. ctx is what Tell returned, and err is what
// the call returns.
func (c *Call) Told(ctx context.Context, err error) {
	l := c.listener
	if l == nil {
		return
	}
	if c.Waited == 0 { // the call was refused before it began to wait
		c.Waited = time.Since(c.Began)
	}
	r := c.report(c.Outcome, err)
	if l.End != nil {
		defer l.End(ctx, r) // also if Observe panics
	}
	if l.Observe != nil {
		l.Observe(r)
	}
}

// Answered notes whether locks in a transaction of the caller's own were granted,
// and the error, and tells of the grant.
func (c *Call) Answered(granted bool, err error) {
	c.Waited = time.Since(c.Began)
	switch {
	case granted:
		c.Outcome = Granted
		c.tellGranted()
	case err == nil:
		c.Contended, c.Outcome = true, NotAcquired
	default:
		c.Outcome = OutcomeBefore(err)
	}
}

func (c *Call) tellGranted() {
	if c.onGrant != nil {
		c.onGrant()
	}
}

func (c *Call) report(o Outcome, err error) Report {
	return Report{
		Op:        c.op,
		Keys:      c.Keys,
		Shared:    c.Shared,
		Queued:    c.Queued,
		Waited:    c.Waited,
		Held:      c.Held,
		Contended: c.Contended,
		Plain:     c.Plain,
		Outcome:   o,
		Err:       err,
	}
}
