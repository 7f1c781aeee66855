package txlock_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/poolfake"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

type script = poolfake.Script

var granted, refused, died, failed = poolfake.Granted, poolfake.Refused, poolfake.Died, poolfake.Failed

// fakePool is a pool whose connections can run fn.
type fakePool struct {
	poolfake.Pool
	lost    time.Time // when the session is gone, if it is not zero
	cut     time.Time // when it was ended
	uncut   bool      // it cannot be
	fn      func(context.Context) error
	refused txlock.Outcome
	refusal error
	outcome txlock.Outcome
	commit  error
	execs   []txlock.Executed
}

func (p *fakePool) Conn(ctx context.Context) (acquire.Conn, error) {
	conn, err := p.Pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &fakeConn{conn, p}
	if len(p.execs) > 0 {
		return &fakeExecer{c}, nil
	}
	return c, nil
}

type fakeConn struct {
	acquire.Conn
	pool *fakePool
}

func (c *fakeConn) Run(ctx context.Context) error { return c.pool.fn(ctx) }
func (c *fakeConn) Refuse(context.Context) (txlock.Outcome, error) {
	return c.pool.refused, c.pool.refusal
}
func (c *fakeConn) Commit(context.Context) (txlock.Outcome, error) {
	return c.pool.outcome, c.pool.commit
}

func (c *fakeConn) Lost() bool { return !c.pool.lost.IsZero() && time.Now().After(c.pool.lost) }
func (c *fakeConn) Cut() bool  { c.pool.cut = time.Now(); return !c.pool.uncut }

type fakeExecer struct{ *fakeConn }

func (c *fakeExecer) Exec(context.Context, context.Context, time.Duration) txlock.Executed {
	e := c.pool.execs[0]
	c.pool.execs = c.pool.execs[1:]
	return e
}

func newCall(p *fakePool, change func(*txlock.Call)) *txlock.Call {
	if p.fn == nil {
		p.fn = func(context.Context) error { return nil }
	}
	c := new(txlock.Call)
	c.Request = acquire.Request{
		Pool: p, Queue: admission.NewQueue(func() int { return 10 }), Owner: p, Keys: []hashkey.Key{hashkey.Name("k")},
	}
	if change != nil {
		change(c)
	}
	return c
}

// What fn returns decides, and what becomes of COMMIT.
func TestRun(t *testing.T) {
	errFn, errCommit := errors.New("of fn"), errors.New("of COMMIT")
	for name, test := range map[string]struct {
		script  script
		try     bool
		fn      error
		commit  error
		want    error
		outcome txlock.Outcome
	}{
		"commits":            {script: script{granted}, outcome: txlock.Committed},
		"fn fails":           {script: script{granted}, fn: errFn, want: errFn, outcome: txlock.RolledBack},
		"COMMIT is lost":     {script: script{granted}, commit: errCommit, want: errCommit, outcome: txlock.Unknown},
		"not granted":        {script: script{refused}, try: true, want: lockerr.ErrNotAcquired, outcome: txlock.NotAcquired},
		"the question fails": {script: script{failed}, want: failed.Err, outcome: txlock.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			p := &fakePool{Pool: poolfake.Pool{Scripts: []script{test.script}}, fn: func(context.Context) error { return test.fn }, outcome: test.outcome, commit: test.commit}
			c := newCall(p, func(c *txlock.Call) { c.Try = test.try })
			err := c.Run(t.Context())
			if err != test.want && !errors.Is(err, test.want) || c.Outcome != test.outcome {
				t.Errorf("got %v, outcome %v; want %v, %v", err, c.Outcome, test.want, test.outcome)
			}
			if n := c.Queue.Lines(); p.Released != 1 || n > 0 {
				t.Errorf("%d connections were released, %d lines are left behind", p.Released, n)
			}
		})
	}
}

// A panic of fn reaches the caller, and releases the connection and the queue.
func TestPanic(t *testing.T) {
	p := &fakePool{Pool: poolfake.Pool{Scripts: []script{{granted}}}, fn: func(context.Context) error { panic("in fn") }}
	c := newCall(p, nil)
	defer func() {
		if value := recover(); value != "in fn" || p.Released != 1 || c.Queue.Lines() > 0 || c.Outcome != txlock.RolledBack {
			t.Errorf("panic %v, %d released, %d lines, outcome %v", value, p.Released, c.Queue.Lines(), c.Outcome)
		}
	}()
	_ = c.Run(t.Context())
}

// fn's ctx ends with MaxHold, and the transaction does not commit. The session
// ends when fn has not returned by the end of Grace. One that cannot be ended is
// not lost.
func TestMaxHold(t *testing.T) {
	for name, test := range map[string]struct {
		obeys, uncut bool
		want, not    error
	}{
		"obeys":           {true, false, lockerr.ErrMaxHold, lockerr.ErrLost},
		"goes on":         {false, false, lockerr.ErrLost, nil},
		"cannot be ended": {false, true, lockerr.ErrMaxHold, lockerr.ErrLost},
	} {
		obeys := test.obeys
		synctest.Test(t, func(t *testing.T) {
			p := &fakePool{Pool: poolfake.Pool{Scripts: []script{{granted}}}, uncut: test.uncut}
			p.fn = func(ctx context.Context) error {
				<-ctx.Done()
				if !obeys {
					time.Sleep(10 * time.Second)
				}
				return nil
			}
			c := newCall(p, func(c *txlock.Call) { c.MaxHold, c.Longest = time.Minute, time.Minute+3*time.Second })
			began := time.Now()
			err := c.Run(t.Context())
			if !errors.Is(err, test.want) || test.not != nil && errors.Is(err, test.not) || c.Outcome != txlock.RolledBack {
				t.Errorf("%s: got %v, outcome %v", name, err, c.Outcome)
			}
			if cut := p.cut.Sub(began); obeys != p.cut.IsZero() || !obeys && cut != time.Minute+3*time.Second {
				t.Errorf("%s: the session was ended after %v", name, cut)
			}
		})
	}
}

// fn's ctx ends when the session is gone, and the call says that the lock was
// lost, whatever fn returns; also when fn returns before anybody has looked.
func TestLost(t *testing.T) {
	errFn := errors.New("of fn")
	for name, fn := range map[string]func(context.Context) error{
		"nil":   func(ctx context.Context) error { <-ctx.Done(); return nil },
		"error": func(ctx context.Context) error { <-ctx.Done(); return errFn },
		"cause": func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
		"soon":  func(ctx context.Context) error { time.Sleep(4100 * time.Millisecond); return nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			p := &fakePool{Pool: poolfake.Pool{Scripts: []script{{granted}}}, fn: fn, lost: began.Add(4050 * time.Millisecond)}
			c := newCall(p, nil)
			err := c.Run(t.Context())
			if !errors.Is(err, lockerr.ErrLost) || c.Outcome != txlock.RolledBack || name == "error" && !errors.Is(err, errFn) {
				t.Errorf("%s: got %v, outcome %v", name, err, c.Outcome)
			}
			if n := strings.Count(err.Error(), lockerr.ErrLost.Error()); n != 1 {
				t.Errorf("%s: it is said %d times that the lock was lost: %v", name, n, err)
			}
			if d := time.Since(began); d > 6*time.Second {
				t.Errorf("%s: fn was told after %v", name, d)
			}
		})
	}
}

// What fn has ended, and may have committed, is not called rolled back, whatever
// else happens.
func TestEndedInside(t *testing.T) {
	errFn, ended := errors.New("of fn"), lockerr.TxEnded([]hashkey.Key{hashkey.Name("k")}, lockerr.EndedByText)
	for name, test := range map[string]struct {
		fn   func(ctx context.Context, cancel func()) error
		lost time.Duration
		want error
	}{
		"nil":   {fn: func(context.Context, func()) error { return nil }},
		"error": {fn: func(context.Context, func()) error { return errFn }, want: errFn},
		"ctx":   {fn: func(_ context.Context, cancel func()) error { cancel(); return nil }, want: context.Canceled},
		"loss":  {fn: func(ctx context.Context, _ func()) error { <-ctx.Done(); return context.Cause(ctx) }, lost: time.Second},
		"panic": {fn: func(context.Context, func()) error { panic(errFn) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := &fakePool{Pool: poolfake.Pool{Scripts: []script{{granted}}}, fn: func(ctx context.Context) error { return test.fn(ctx, cancel) }}
			p.refused, p.refusal = txlock.Unknown, ended
			if test.lost > 0 {
				p.lost = time.Now().Add(test.lost)
			}
			c := newCall(p, nil)
			defer func() {
				if recover(); c.Outcome != txlock.Unknown {
					t.Errorf("%s: the outcome is %v", name, c.Outcome)
				}
			}()
			err := c.Run(ctx)
			if !errors.Is(err, lockerr.ErrTxEnded) || test.want != nil && !errors.Is(err, test.want) || errors.Is(err, lockerr.ErrLost) {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
}

// sqlState is an error of a server.
type sqlState string

func (s sqlState) Error() string    { return "SQLSTATE " + string(s) }
func (s sqlState) SQLState() string { return string(s) }

// Holders have one watch for all of them, which is no goroutine between two looks,
// and tells each whose session is gone.
func TestOneWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const holders = 100
		began, before := time.Now(), runtime.NumGoroutine()
		var all sync.WaitGroup
		for i := range holders {
			p := &fakePool{Pool: poolfake.Pool{Scripts: []script{{granted}}}, fn: func(ctx context.Context) error { <-ctx.Done(); return nil }}
			p.lost = began.Add(time.Duration(i) * 100 * time.Millisecond)
			all.Go(func() {
				c := newCall(p, nil)
				if err := c.Run(t.Context()); !errors.Is(err, lockerr.ErrLost) || time.Since(p.lost) > 2*time.Second {
					t.Errorf("got %v, %v after the loss", err, time.Since(p.lost))
				}
			})
		}
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > holders {
			t.Errorf("%d holders, and %d goroutines", holders, n)
		}
		all.Wait()
	})
}

func TestExec(t *testing.T) {
	const errTimeout = sqlState("55P03")
	for name, test := range map[string]struct {
		execs     []txlock.Executed
		shared    bool
		scripts   []script
		want      error
		one       bool
		openings  int
		contended bool
	}{
		"one message":         {execs: []txlock.Executed{{Tag: "UPDATE 3"}}, scripts: []script{nil}, one: true},
		"dead, then good":     {execs: []txlock.Executed{{Dead: true, Err: died.Err}, {Tag: "UPDATE 3"}}, scripts: []script{nil, nil}, one: true},
		"not committed":       {execs: []txlock.Executed{{Outcome: txlock.RolledBack, Err: failed.Err}}, scripts: []script{nil}, want: failed.Err, one: true},
		"its wait ends":       {execs: []txlock.Executed{{Outcome: txlock.NotAcquired, Err: errTimeout}}, scripts: []script{nil}, want: errTimeout, one: true, contended: true},
		"a slow lock":         {execs: []txlock.Executed{{Busy: true}}, scripts: []script{nil, {refused, granted}}, openings: 2, contended: true},
		"a slow lock, shared": {execs: []txlock.Executed{{Busy: true}}, shared: true, scripts: []script{nil, {refused, granted}}, openings: 2, contended: true},
		"the text of three":   {execs: []txlock.Executed{{Unfit: true}}, scripts: []script{nil, {granted}}, openings: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fakePool{execs: test.execs, Pool: poolfake.Pool{Scripts: test.scripts}}
				c := newCall(p, func(c *txlock.Call) { c.Shared = test.shared })
				tag, one, err := c.Exec(t.Context())
				if !errors.Is(err, test.want) || one != test.one || len(p.Openings) != test.openings || one && err == nil && tag != "UPDATE 3" {
					t.Errorf("%q, one message %t, %v, %d openings", tag, one, err, len(p.Openings))
				}
				if c.Contended != test.contended {
					t.Errorf("contended %t, want %t", c.Contended, test.contended)
				}
				for i, o := range p.Openings {
					if test.openings == 2 && !(o.Wait && o.Quiet) {
						t.Errorf("opening %d after a slow lock: %+v", i, o)
					}
				}
				if n := c.Queue.Lines(); n > 0 {
					t.Errorf("%d lines are left behind", n)
				}
			})
		})
	}
}
