package txlock_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// fakePool has one connection after the other, each with a script.
type fakePool struct {
	scripts  []script
	openings []txlock.Opening
	released int
	fn       func(context.Context) error
	outcome  txlock.Outcome
	commit   error
	execs    []txlock.Executed
}

// script is what a connection answers to one Open after the other. A last entry
// that dies closes it.
type script []answer

type answer struct {
	granted bool
	err     error
	dies    bool
}

func (p *fakePool) OpenConnections() int { return 2 }

func (p *fakePool) Conn(ctx context.Context) (txlock.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(p.scripts) == 0 {
		return nil, driver.ErrBadConn
	}
	c := &fakeConn{pool: p, script: p.scripts[0]}
	p.scripts = p.scripts[1:]
	if len(p.execs) > 0 {
		return &fakeExecer{c}, nil
	}
	return c, nil
}

type fakeConn struct {
	pool     *fakePool
	script   script
	closed   bool
	released bool
}

func (c *fakeConn) Open(ctx context.Context, o txlock.Opening) (bool, error) {
	c.pool.openings = append(c.pool.openings, o)
	var a answer
	if len(c.script) > 0 {
		a, c.script = c.script[0], c.script[1:]
	}
	if o.Wait && !a.granted && a.err == nil {
		time.Sleep(o.Limit)
	}
	c.closed = a.dies
	return a.granted, a.err
}

func (c *fakeConn) Run(ctx context.Context) error { return c.pool.fn(ctx) }
func (c *fakeConn) Commit(context.Context) (txlock.Outcome, error) {
	return c.pool.outcome, c.pool.commit
}

func (c *fakeConn) Release(context.Context) {
	if !c.released {
		c.pool.released++
	}
	c.released = true
}
func (c *fakeConn) Closed() bool { return c.closed }

type fakeExecer struct{ *fakeConn }

func (c *fakeExecer) Exec(context.Context, context.Context, time.Duration) txlock.Executed {
	e := c.pool.execs[0]
	c.pool.execs = c.pool.execs[1:]
	return e
}

func newCall(p *fakePool, change func(*txlock.Request)) *txlock.Call {
	if p.fn == nil {
		p.fn = func(context.Context) error { return nil }
	}
	c := new(txlock.Call)
	c.Request = txlock.Request{
		Pool: p, Queue: admission.NewQueue(func() int { return 10 }), Owner: p, Keys: []hashkey.Key{hashkey.Name("k")},
	}
	if change != nil {
		change(&c.Request)
	}
	return c
}

var (
	granted = answer{granted: true}
	refused = answer{}
	died    = answer{err: errors.New("died"), dies: true}
	failed  = answer{err: errors.New("failed")}
)

const anyNumber = -1

func TestRun(t *testing.T) {
	errFn := errors.New("of fn")
	for name, test := range map[string]struct {
		scripts   []script
		change    func(*txlock.Request)
		fn        error
		want      error
		outcome   txlock.Outcome
		openings  int
		contended bool
		lasts     time.Duration
	}{
		"free":                {scripts: []script{{granted}}, openings: 1},
		"fn fails":            {scripts: []script{{granted}}, openings: 1, fn: errFn, want: errFn, outcome: txlock.RolledBack},
		"waits on the server": {scripts: []script{{refused, granted}}, openings: 2, contended: true},
		"waits in slices":     {scripts: []script{{refused, refused, refused, granted}}, openings: 4, contended: true, lasts: time.Second},
		"a try is refused": {scripts: []script{{refused}}, change: func(r *txlock.Request) { r.Try = true }, openings: 1, contended: true,
			want: lockerr.ErrNotAcquired, outcome: txlock.NotAcquired},
		"polls": {scripts: []script{{refused}, {refused}, {granted}}, change: func(r *txlock.Request) { r.Poll = time.Minute }, openings: 3,
			contended: true, lasts: 2 * time.Minute},
		"Wait is over": {scripts: []script{{refused}}, change: func(r *txlock.Request) { r.Wait = 600 * time.Millisecond }, openings: anyNumber,
			contended: true, lasts: 600 * time.Millisecond, want: context.DeadlineExceeded, outcome: txlock.NotAcquired},
		"died in the pool":      {scripts: []script{{died}, {died}, {granted}}, openings: 3},
		"all die":               {scripts: []script{{died}, {died}, {died}, {died}, {died}, {died}, {granted}}, openings: 6, want: died.err, outcome: txlock.Failed},
		"died during the wait":  {scripts: []script{{refused, died}, {granted}}, openings: 2, contended: true, want: died.err, outcome: txlock.Failed},
		"the try fails":         {scripts: []script{{failed}, {granted}}, openings: 1, want: failed.err, outcome: txlock.Failed},
		"no connection is good": {want: driver.ErrBadConn, outcome: txlock.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fakePool{scripts: test.scripts, fn: func(context.Context) error { return test.fn }}
				began, connections := time.Now(), len(test.scripts)
				c := newCall(p, test.change)
				err := c.Run(t.Context())
				if !errors.Is(err, test.want) || test.want == nil && err != nil {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if c.Outcome != test.outcome || c.Contended != test.contended || test.openings != anyNumber && len(p.openings) != test.openings {
					t.Errorf("outcome %v, contended %t, %d openings; want %v, %t, %d", c.Outcome, c.Contended, len(p.openings), test.outcome, test.contended, test.openings)
				}
				if lasts := time.Since(began).Truncate(10 * time.Millisecond); lasts != test.lasts {
					t.Errorf("it took %v, want %v", lasts, test.lasts)
				}
				if got := connections - len(p.scripts); p.released != got {
					t.Errorf("%d of %d connections were released", p.released, got)
				}
				if n := c.Queue.Lines(); n > 0 {
					t.Errorf("%d lines are left behind", n)
				}
			})
		})
	}
}

// The first slice may be logged by the server, the others are quiet; and no
// slice is longer than half a second.
func TestSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{scripts: []script{{refused, refused, refused, granted}}}
		if err := newCall(p, nil).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, o := range p.openings {
			if o.Wait != (i > 0) || o.Quiet != (i > 1) || o.Limit > 500*time.Millisecond {
				t.Errorf("opening %d: %+v", i, o)
			}
		}
	})
}

// A panic of fn reaches the caller, and releases the connection and the queue.
func TestPanic(t *testing.T) {
	p := &fakePool{scripts: []script{{granted}}, fn: func(context.Context) error { panic("in fn") }}
	c := newCall(p, nil)
	defer func() {
		if value := recover(); value != "in fn" || p.released != 1 || c.Queue.Lines() > 0 || c.Outcome != txlock.RolledBack {
			t.Errorf("panic %v, %d released, %d lines, outcome %v", value, p.released, c.Queue.Lines(), c.Outcome)
		}
	}()
	_ = c.Run(t.Context())
}

// fn's ctx ends with MaxHold, and the transaction does not commit.
func TestMaxHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{scripts: []script{{granted}}, fn: func(ctx context.Context) error { <-ctx.Done(); return nil }}
		c := newCall(p, func(r *txlock.Request) { r.MaxHold = time.Minute })
		if err := c.Run(t.Context()); !errors.Is(err, txlock.ErrMaxHold) || !errors.Is(err, context.DeadlineExceeded) || c.Outcome != txlock.RolledBack {
			t.Errorf("got %v, outcome %v", err, c.Outcome)
		}
	})
}

// A call with fn's ctx on the same pool is refused.
func TestNested(t *testing.T) {
	p := &fakePool{scripts: []script{{granted}, {granted}}}
	var inner error
	p.fn = func(ctx context.Context) error {
		c := newCall(p, func(r *txlock.Request) { r.Keys = []hashkey.Key{hashkey.Name("other")} })
		inner = c.Run(ctx)
		return nil
	}
	if err := newCall(p, nil).Run(t.Context()); err != nil || !errors.Is(inner, lockerr.ErrNested) {
		t.Errorf("outer %v, inner %v", err, inner)
	}
}

func TestExec(t *testing.T) {
	for name, test := range map[string]struct {
		execs    []txlock.Executed
		shared   bool
		scripts  []script
		want     error
		one      bool
		openings int
	}{
		"one message":         {execs: []txlock.Executed{{Rows: 3}}, scripts: []script{nil}, one: true},
		"dead, then good":     {execs: []txlock.Executed{{Dead: true, Err: died.err}, {Rows: 3}}, scripts: []script{nil, nil}, one: true},
		"not committed":       {execs: []txlock.Executed{{Outcome: txlock.RolledBack, Err: failed.err}}, scripts: []script{nil}, want: failed.err, one: true},
		"a slow lock":         {execs: []txlock.Executed{{Busy: true}}, scripts: []script{nil, {refused, granted}}, openings: 2},
		"a slow lock, shared": {execs: []txlock.Executed{{Busy: true}}, shared: true, scripts: []script{nil, {refused, granted}}, openings: 2},
		"the text of three":   {execs: []txlock.Executed{{Unfit: true}}, scripts: []script{nil, {granted}}, openings: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fakePool{execs: test.execs, scripts: test.scripts}
				c := newCall(p, func(r *txlock.Request) { r.Shared = test.shared })
				rows, one, err := c.Exec(t.Context())
				if !errors.Is(err, test.want) || one != test.one || len(p.openings) != test.openings || one && err == nil && rows != 3 {
					t.Errorf("%d rows, one message %t, %v, %d openings", rows, one, err, len(p.openings))
				}
				for i, o := range p.openings {
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
