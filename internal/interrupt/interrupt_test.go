package interrupt_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// fakeConn is a connection whose server answers a cancel request after a while.
type fakeConn struct {
	socket
	cancelTakes time.Duration
	cancelFails bool
	cancels     int
	closed      bool
}

func (c *fakeConn) IsClosed() bool              { return c.closed }
func (c *fakeConn) Conn() net.Conn              { return &c.socket }
func (c *fakeConn) Close(context.Context) error { c.closed = true; return nil }
func (c *fakeConn) CancelRequest(ctx context.Context) error {
	c.cancels++
	time.Sleep(c.cancelTakes)
	if c.cancelFails {
		return errors.New("no answer")
	}
	return nil
}

// socket is a socket that knows its deadline.
type socket struct {
	net.Conn
	mu       sync.Mutex
	deadline time.Time // guarded by mu
}

func (s *socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

// cut reports whether the connection was cut.
func (c *fakeConn) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline.Equal(time.Unix(1, 0))
}

func TestWatch(t *testing.T) {
	const second = time.Second
	whole := interrupt.Policy{DeadlineGrace: second, CancelRequest: true, DeadlineDelay: 2 * second}
	for name, test := range map[string]struct {
		policy      interrupt.Policy
		conn        *fakeConn
		ends        time.Duration // after which ctx ends
		deadline    bool          // by its deadline
		answer      time.Duration // after which the message is answered
		wantCancels int
		wantCut     bool // in the end, or for a while
		wantClosed  bool
		wantLasts   time.Duration // until Stop returns
	}{
		"answered first":              {policy: whole, ends: 5 * second, answer: second, wantLasts: second},
		"cancelled, and answered":     {policy: whole, ends: second, answer: 1200 * time.Millisecond, wantCancels: 1, wantLasts: 1200 * time.Millisecond},
		"within the deadline's grace": {policy: whole, ends: second, deadline: true, answer: 1900 * time.Millisecond, wantLasts: 1900 * time.Millisecond},
		"after the deadline's grace":  {policy: whole, ends: second, deadline: true, answer: 2200 * time.Millisecond, wantCancels: 1, wantLasts: 2200 * time.Millisecond},
		"a request that comes late": {policy: whole, conn: &fakeConn{cancelTakes: second}, ends: second, answer: 1500 * time.Millisecond,
			wantCancels: 1, wantLasts: 2 * second},
		"a request that may come later": {policy: whole, conn: &fakeConn{cancelTakes: second, cancelFails: true}, ends: second, answer: 1500 * time.Millisecond,
			wantCancels: 1, wantClosed: true, wantLasts: 2 * second},
		"no request": {policy: interrupt.Policy{DeadlineDelay: second}, ends: second, answer: 1500 * time.Millisecond, wantLasts: 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				if test.deadline {
					ctx, cancel = context.WithTimeout(t.Context(), test.ends)
				} else {
					defer time.AfterFunc(test.ends, cancel).Stop()
				}
				defer cancel()
				conn := test.conn
				if conn == nil {
					conn = new(fakeConn)
				}
				w := interrupt.Start(ctx, conn, test.policy)
				time.Sleep(test.answer)
				w.Stop()
				if conn.cancels != test.wantCancels || conn.closed != test.wantClosed || conn.cut() {
					t.Errorf("%d cancel requests, closed %t, cut %t", conn.cancels, conn.closed, conn.cut())
				}
				if lasts := time.Since(began); lasts != test.wantLasts {
					t.Errorf("Stop returned after %v, want %v", lasts, test.wantLasts)
				}
				cancel()
				time.Sleep(time.Hour)
				synctest.Wait()
				if conn.cancels != test.wantCancels || conn.cut() {
					t.Error("the end of ctx reached a later message")
				}
			})
		})
	}
}

// A message that is not answered has its connection cut.
func TestWatchCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var conn fakeConn
		w := interrupt.Start(ctx, &conn, interrupt.Policy{CancelRequest: true, DeadlineDelay: 2 * time.Second})
		cancel()
		time.Sleep(2*time.Second - time.Millisecond)
		synctest.Wait()
		if conn.cut() {
			t.Error("cut too soon")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if !conn.cut() {
			t.Error("not cut")
		}
		w.Stop()
		if conn.cut() {
			t.Error("the next message is cut, too")
		}
	})
}

// An interrupt that is about to begin when Stop comes does nothing any more.
func TestStopComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			var conn fakeConn
			w := interrupt.Start(ctx, &conn, interrupt.Policy{})
			cancel()
			w.Stop()
			synctest.Wait()
			if conn.cut() {
				t.Fatal("the next message is cut")
			}
		}
	})
}

// A ctx that cannot end costs nothing.
func TestNoWatch(t *testing.T) {
	w := interrupt.Start(context.Background(), new(fakeConn), interrupt.Policy{})
	if w != nil {
		t.Error("a watch over a ctx that cannot end")
	}
	w.Stop()
}
