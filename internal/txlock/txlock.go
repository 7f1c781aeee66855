// Package txlock is one locked transaction from call to end: it waits for the
// call's turn, opens the transaction, runs fn in it and finishes it. It knows a
// connection only by the interface [Conn].
package txlock

import (
	"context"
	"errors"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
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
	// Open begins a transaction, in place of one that may be open, and asks
	// for the locks or waits for them. It reports whether they are granted.
	Open(ctx context.Context, o Opening) (granted bool, err error)

	// Run runs fn in the transaction and returns fn's error.
	Run(ctx context.Context) error

	// Commit commits, if what fn has done allows that, and returns the outcome
	// with its error.
	Commit(ctx context.Context) (Outcome, error)

	// Release rolls back what is open and gives the connection back, or closes
	// it where it is not as it was. ctx's end does not keep it from that. It
	// may be called while fn panics.
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

// Outcome is how a call ended.
type Outcome int

// The outcomes. xactlock exports them.
const (
	Committed Outcome = iota
	RolledBack
	NotAcquired
	Failed
	Unknown
)

// OutcomeBefore is the outcome of a call that ended before the grant with err.
func OutcomeBefore(err error) Outcome {
	if errors.Is(err, lockerr.ErrNotAcquired) {
		return NotAcquired
	}
	return Failed
}

// Executed is what became of an Exec that went in one message.
type Executed struct {
	Outcome Outcome
	Err     error
	Rows    int64 // affected

	Busy  bool // the lock was not to be had within the limit, and nothing was executed
	Dead  bool // the connection was dead, and nothing was executed
	Unfit bool // the statement cannot go in one message, and nothing was sent
}

// Execer is a Conn that can do all of an Exec in one message. If ctx or waitCtx
// ends before the grant, the outcome is NotAcquired.
type Execer interface {
	Exec(ctx, waitCtx context.Context, limit time.Duration) Executed
}
