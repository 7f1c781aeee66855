package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// A tap sees what clients write. One Write of pgx is one message, or several
// that do not wait for each other's answers: one round trip.
type tap struct {
	dials atomic.Int64

	mu     sync.Mutex
	writes [][]byte // guarded by mu
}

// on returns a dialFunc whose connections the tap is on.
func (t *tap) on(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		t.dials.Add(1)
		return &tappedConn{conn, t}, nil
	}
}

// drain returns what was written since the last time.
func (t *tap) drain() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	writes := t.writes
	t.writes = nil
	return writes
}

type tappedConn struct {
	net.Conn
	tap *tap
}

// Write is net.Conn's.
func (c *tappedConn) Write(p []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.writes = append(c.tap.writes, append([]byte(nil), p...))
	c.tap.mu.Unlock()
	return c.Conn.Write(p)
}
