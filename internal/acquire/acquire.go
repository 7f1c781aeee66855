// Package acquire is how a call gets its lock: it waits for the call's turn,
// takes connections of a pool and asks for the lock there, or waits for it, until
// it is granted on one. It knows a connection only by the interface [Conn].
package acquire

import (
	"context"
	"time"
)

// Pool is where a call has its connections from.
type Pool interface {
	// Conn takes a connection from the pool. An error that is
	// driver.ErrBadConn means that the connection was dead.
	Conn(ctx context.Context) (Conn, error)
	// OpenConnections returns how many connections the pool has.
	OpenConnections() int
}

// Conn is a connection of a pool, for one call.
type Conn interface {
	// Open asks for the locks or waits for them, and reports whether they are
	// granted. What an Open before has asked for is not held any more then, and
	// was not granted.
	Open(ctx context.Context, o Opening) (granted bool, err error)

	// Release gives the connection back, with no lock on it, or closes it
	// where it is not as it was. ctx's end does not keep it from that. It may
	// be called twice, and while fn panics.
	Release(ctx context.Context)

	// Closed reports whether the connection is closed.
	Closed() bool
}

// Opening is how to ask for the locks.
type Opening struct {
	Wait  bool          // or else ask, and do not wait
	Limit time.Duration // of the wait: a lock that is not granted by then is no error
	Quiet bool          // such a wait leaves no line in the server's log
}
