package interrupt_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// slowServer is a connection whose server answers a cancel request after a while.
type slowServer struct {
	fakeConn
	answers      time.Duration
	hungUp       time.Duration // after which the client has, 0 where the server was first
	requests     atomic.Int32
	socketClosed bool
}

func (c *slowServer) Conn() net.Conn { return closer{&c.socket, &c.socketClosed} }

func (c *slowServer) CancelRequest(ctx context.Context) error {
	c.requests.Add(1)
	began := time.Now()
	select {
	case <-ctx.Done():
		c.hungUp = time.Since(began)
	case <-time.After(c.answers):
	}
	return nil // as pgx does in either case
}

// closer is a socket that knows whether it is closed.
type closer struct {
	*socket
	closed *bool
}

func (c closer) Close() error { *c.closed = true; return nil }

// A cancel request ends when the server says so, or after 15 seconds, also if the
// connection of the statement is gone before that.
func TestCancelRequestStaysOpen(t *testing.T) {
	for name, test := range map[string]struct {
		answers, hungUp time.Duration
	}{
		"answered":     {14 * time.Second, 0},
		"not answered": {time.Hour, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				conn := &slowServer{answers: test.answers}
				w := interrupt.Start(ctx, conn, interrupt.Policy{CancelRequest: true, DeadlineDelay: 2 * time.Second})
				cancel()
				synctest.Wait()
				conn.closed = true
				began := time.Now()
				w.Stop()
				if lasted := time.Since(began); lasted > 0 {
					t.Errorf("Stop took %v, of a connection that is closed", lasted)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if conn.hungUp != test.hungUp {
					t.Errorf("hung up after %v, want %v", conn.hungUp, test.hungUp)
				}
			})
		})
	}
}

// A statement of pgx's own that has ended by itself leaves no cancel request
// behind that could hit the next one.
func TestHandler(t *testing.T) {
	for name, test := range map[string]struct {
		over           time.Duration // after which the statement is over
		answers, lasts time.Duration
		closed         bool // by pgx, before the statement is over
		wantClosed     bool
	}{
		"answered":                   {answers: time.Second, lasts: time.Second},
		"answered first":             {over: 1500 * time.Millisecond, answers: 1400 * time.Millisecond, lasts: 1500 * time.Millisecond},
		"not answered":               {answers: time.Hour, lasts: 5 * time.Second, wantClosed: true},
		"hung up first":              {over: 20 * time.Second, answers: time.Hour, lasts: 20 * time.Second, wantClosed: true},
		"of a connection that ended": {answers: time.Hour, closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &slowServer{answers: test.answers}
				h := &interrupt.Handler{Conn: conn, Delay: 5 * time.Second}
				began := time.Now()
				h.HandleCancel(t.Context())
				if cut := conn.socket.deadline; !cut.Equal(began.Add(5 * time.Second)) {
					t.Errorf("the connection is cut after %v, want 5s", cut.Sub(began))
				}
				time.Sleep(test.over)
				conn.closed = test.closed
				h.HandleUnwatchAfterCancel()
				if lasted := time.Since(began); lasted != test.lasts {
					t.Errorf("it took %v, want %v", lasted, test.lasts)
				}
				if conn.socketClosed != test.wantClosed {
					t.Errorf("the socket is closed: %t, want %t", conn.socketClosed, test.wantClosed)
				}
				if !test.wantClosed && !test.closed && !conn.socket.deadline.IsZero() {
					t.Error("the next statement has the deadline of this one")
				}
				time.Sleep(time.Minute) // until the request has ended
			})
		})
	}
}

// A cancel request whose connection cannot be made costs nothing, and is made again.
func TestRequestWithoutConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		conn := &refusing{refusals: 2}
		w := interrupt.Start(ctx, conn, interrupt.Policy{CancelRequest: true, DeadlineDelay: 2 * time.Second})
		cancel()
		time.Sleep(600 * time.Millisecond)
		w.Stop()
		if conn.cancels != 1 || conn.refusals != 0 || conn.closed || conn.cut() {
			t.Errorf("%d requests, %d refusals to come, closed %t, cut %t", conn.cancels, conn.refusals, conn.closed, conn.cut())
		}
	})
}

// refusing is a connection whose server refuses the first connections of requests.
type refusing struct {
	fakeConn
	refusals int
}

func (c *refusing) CancelRequest(ctx context.Context) error {
	if c.refusals > 0 {
		c.refusals--
		return &net.OpError{Op: "dial", Err: errors.New("refused")}
	}
	return c.fakeConn.CancelRequest(ctx)
}

// A cancel request that the server gets before the statement cancels nothing: there
// is another one soon, until the statement is over, and none after that.
func TestAsksAgain(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, conn *slowServer) (end func()){
		"Handler": func(t *testing.T, conn *slowServer) func() {
			h := &interrupt.Handler{Conn: conn, Delay: 5 * time.Second}
			h.HandleCancel(t.Context())
			return h.HandleUnwatchAfterCancel
		},
		"Watch": func(t *testing.T, conn *slowServer) func() {
			ctx, cancel := context.WithCancel(t.Context())
			w := interrupt.Start(ctx, conn, interrupt.Policy{CancelRequest: true, DeadlineDelay: 5 * time.Second})
			cancel()
			return w.Stop
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &slowServer{answers: 100 * time.Millisecond}
				end := begin(t, conn)
				time.Sleep(time.Second)
				end()
				n := conn.requests.Load()
				if n != 3 {
					t.Errorf("%d requests in a second, want 3", n)
				}
				time.Sleep(time.Minute)
				if late := conn.requests.Load() - n; late > 0 || conn.cut() || conn.socketClosed {
					t.Errorf("%d requests after the statement, cut %t, closed %t", late, conn.cut(), conn.socketClosed)
				}
			})
		})
	}
}
