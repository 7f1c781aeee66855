package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// dialFunc is how pgx dials.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// delaying returns a dialFunc whose connections deliver each message of the
// client the delay after it was written. Answers come back at once, so the
// delay is what a round trip takes longer; and what the client writes while a
// message is under way is under way at the same time, as on a real network.
func delaying(dial dialFunc, delay time.Duration) dialFunc {
	if delay == 0 {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return newDelayConn(conn, delay)
	}
}

// maxUnderWay bounds the messages on the way; a driver that waits for answers
// has one or two.
const maxUnderWay = 256

type parcel struct {
	due   time.Time
	bytes []byte
}

// delayConn is a connection with a long way to the server.
type delayConn struct {
	net.Conn
	delay  time.Duration
	alarm  *alarm
	failed atomic.Pointer[error] // what became of an earlier message

	mu       sync.Mutex // guards closed, and sends on underWay against its close
	closed   bool
	underWay chan parcel
}

func newDelayConn(conn net.Conn, delay time.Duration) (*delayConn, error) {
	a, err := newAlarm()
	if err != nil {
		return nil, err
	}
	c := &delayConn{Conn: conn, delay: delay, alarm: a, underWay: make(chan parcel, maxUnderWay)}
	go c.deliver()
	return c, nil
}

// Write is net.Conn's. It returns at once; an error of the delivery is the
// next Write's.
func (c *delayConn) Write(p []byte) (int, error) {
	if err := c.failed.Load(); err != nil {
		return 0, *err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.underWay <- parcel{time.Now().Add(c.delay), append([]byte(nil), p...)}
	return len(p), nil
}

// Close is net.Conn's. The connection closes when what is under way, such as
// the driver's goodbye, has been delivered.
func (c *delayConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	close(c.underWay)
	return nil
}

func (c *delayConn) deliver() {
	for p := range c.underWay {
		err := c.alarm.until(p.due)
		if err == nil {
			_, err = c.Conn.Write(p.bytes)
		}
		if err != nil {
			c.failed.CompareAndSwap(nil, &err)
		}
	}
	// Nobody is left to tell: the owner has closed the connection.
	_ = c.alarm.close()
	_ = c.Conn.Close()
}
