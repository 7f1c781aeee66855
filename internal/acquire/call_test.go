package acquire_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/admission"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/poolfake"
)

type script = poolfake.Script

var granted, refused, died, failed = poolfake.Granted, poolfake.Refused, poolfake.Died, poolfake.Failed

func newCall(p *poolfake.Pool, change func(*acquire.Request)) *acquire.Call {
	c := new(acquire.Call)
	c.Request = acquire.Request{
		Pool: p, Queue: admission.NewQueue(func() int { return 10 }), Owner: p, Keys: []hashkey.Key{hashkey.Name("k")},
	}
	if change != nil {
		change(&c.Request)
	}
	return c
}

func TestAcquire(t *testing.T) {
	const anyNumber = -1
	for name, test := range map[string]struct {
		scripts   []script
		change    func(*acquire.Request)
		want      error
		openings  int
		contended bool
		lasts     time.Duration
	}{
		"free":                {scripts: []script{{granted}}, openings: 1},
		"waits on the server": {scripts: []script{{refused, granted}}, openings: 2, contended: true},
		"waits in slices":     {scripts: []script{{refused, refused, refused, granted}}, openings: 4, contended: true, lasts: time.Second},
		"a try is refused": {scripts: []script{{refused}}, change: func(r *acquire.Request) { r.Try = true }, openings: 1, contended: true,
			want: lockerr.ErrNotAcquired},
		"polls": {scripts: []script{{refused}, {refused}, {granted}}, change: func(r *acquire.Request) { r.Poll = time.Minute }, openings: 3,
			contended: true, lasts: 2 * time.Minute},
		"Wait is over": {scripts: []script{{refused}}, change: func(r *acquire.Request) { r.Wait = 600 * time.Millisecond }, openings: anyNumber,
			contended: true, lasts: 600 * time.Millisecond, want: context.DeadlineExceeded},
		"died in the pool":     {scripts: []script{{died}, {died}, {granted}}, openings: 3},
		"all die":              {scripts: []script{{died}, {died}, {died}, {died}, {died}, {died}, {granted}}, openings: 6, want: died.Err},
		"died during the wait": {scripts: []script{{refused, died}, {granted}}, openings: 2, contended: true, want: died.Err},
		"died, and persists": {scripts: []script{{refused, died}, {granted}}, change: func(r *acquire.Request) { r.Persists = true },
			openings: 3, contended: true},
		"the try fails":         {scripts: []script{{failed}, {granted}}, openings: 1, want: failed.Err},
		"no connection is good": {want: driver.ErrBadConn},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &poolfake.Pool{Scripts: test.scripts}
				began, connections := time.Now(), len(test.scripts)
				c := newCall(p, test.change)
				conn, err := c.Acquire(t.Context())
				if !errors.Is(err, test.want) || test.want == nil && err != nil || (conn != nil) != (err == nil) {
					t.Errorf("got %v, %v, want %v", conn, err, test.want)
				}
				if conn != nil {
					conn.Release(t.Context())
				}
				c.End()
				if c.Contended != test.contended || test.openings != anyNumber && len(p.Openings) != test.openings {
					t.Errorf("contended %t, %d openings; want %t, %d", c.Contended, len(p.Openings), test.contended, test.openings)
				}
				if lasts := time.Since(began).Truncate(10 * time.Millisecond); lasts != test.lasts {
					t.Errorf("it took %v, want %v", lasts, test.lasts)
				}
				if got := connections - len(p.Scripts); p.Released != got {
					t.Errorf("%d of %d connections were released", p.Released, got)
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
		p := &poolfake.Pool{Scripts: []script{{refused, refused, refused, granted}}}
		if _, err := newCall(p, nil).Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, o := range p.Openings {
			if o.Wait != (i > 0) || o.Quiet != (i > 1) || o.Limit > 500*time.Millisecond {
				t.Errorf("opening %d: %+v", i, o)
			}
		}
	})
}

// A call that polls asks once more just before its wait is over.
func TestLastQuestion(t *testing.T) {
	for _, bound := range []string{"Wait", "ctx"} {
		synctest.Test(t, func(t *testing.T) {
			p := &poolfake.Pool{Freed: time.Now().Add(200 * time.Millisecond)}
			ctx := t.Context()
			c := newCall(p, func(r *acquire.Request) { r.Poll = 5 * time.Second })
			if bound == "Wait" {
				c.Wait = time.Second
			} else {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			if _, err := c.Acquire(ctx); err != nil || len(p.Openings) != 2 {
				t.Errorf("%s: got %v after %d questions", bound, err, len(p.Openings))
			}
		})
	}
}

// A call that polls holds up none that waits, or polls more often.
func TestPollHoldsUpNobody(t *testing.T) {
	for name, poll := range map[string]time.Duration{"waits": 0, "polls": time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := &poolfake.Pool{Freed: time.Now().Add(200 * time.Millisecond)}
			sleeper := newCall(p, func(r *acquire.Request) { r.Poll = time.Hour })
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan struct{})
			go func() {
				defer close(over)
				_, _ = sleeper.Acquire(ctx) // until it is cancelled
				sleeper.End()
			}()
			synctest.Wait()
			c := newCall(p, func(r *acquire.Request) { r.Queue, r.Poll, r.Wait = sleeper.Queue, poll, 5*time.Second })
			if _, err := c.Acquire(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			c.End()
			cancel()
			<-over
		})
	}
}

// lateLock is a pool for many calls, of whom all are granted their lock from some
// time on.
type lateLock struct {
	freed     time.Time
	questions atomic.Int32
}

func (p *lateLock) OpenConnections() int                       { return 2 }
func (p *lateLock) Conn(context.Context) (acquire.Conn, error) { return lateConn{p}, nil }

type lateConn struct{ *lateLock }

func (c lateConn) Release(context.Context) {}
func (c lateConn) Closed() bool            { return false }

func (c lateConn) Open(context.Context, acquire.Opening) (bool, error) {
	c.questions.Add(1)
	return time.Now().After(c.freed), nil
}

// Of readers that poll one asks, as of other calls, and all have the lock as soon as
// that one has it.
func TestReadersPollInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const readers, seconds = 20, 10
		began := time.Now()
		p := &lateLock{freed: began.Add(seconds*time.Second - 1)}
		queue := admission.NewQueue(func() int { return 10 })
		var wg sync.WaitGroup
		for range readers {
			wg.Go(func() {
				c := newCall(nil, func(r *acquire.Request) { r.Pool, r.Queue, r.Shared, r.Poll = p, queue, true, time.Second })
				defer c.End()
				if _, err := c.Acquire(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d != seconds*time.Second {
			t.Errorf("the last reader has the lock after %v", d)
		}
		if n := p.questions.Load(); n > readers+seconds+readers {
			t.Errorf("%d readers asked %d times in %d seconds", readers, n, seconds)
		}
	})
}

// A call with fn's ctx on the same pool is refused.
func TestNested(t *testing.T) {
	p := &poolfake.Pool{Scripts: []script{{granted}}}
	c := newCall(p, func(r *acquire.Request) { r.Kind = nesting.Transaction })
	ctx := nesting.With(t.Context(), nesting.Transaction, p, []hashkey.Key{hashkey.Name("other")})
	if _, err := c.Acquire(ctx); !errors.Is(err, lockerr.ErrNested) || len(p.Openings) > 0 {
		t.Errorf("got %v after %d questions", err, len(p.Openings))
	}
}
