package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// dialFunc is how pgx dials.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// delaying returns a dialFunc whose connections deliver each message the delay
// after it was written: those of the client, and the answers of the server. So
// a round trip takes twice the delay longer; and what the client writes while
// a message is under way is under way at the same time, as on a real network.
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
	alarm  *alarm                // of deliver
	answer *alarm                // of Read
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
	answer, err := newAlarm()
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	c := &delayConn{Conn: conn, delay: delay, alarm: a, answer: answer, underWay: make(chan parcel, maxUnderWay)}
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

// Read is net.Conn's. An answer that comes in pieces is late by the delay for
// each; those of a few statements come in one.
func (c *delayConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		err = errors.Join(err, c.answer.until(time.Now().Add(c.delay)))
	}
	return n, err
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
	_ = c.answer.close()
	_ = c.Conn.Close()
}
