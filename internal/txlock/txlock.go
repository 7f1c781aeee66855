// Package txlock is one locked transaction from call to end: it waits for the
// call's turn, opens the transaction, runs fn in it and finishes it. It knows a
// connection only by the interface [Conn].
package txlock

import (
	"context"
	"errors"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// Conn is a connection that a transaction with the locks can be on.
type Conn interface {
	// Open begins a transaction, in place of one that may be open, and asks
	// for the locks or waits for them. Release rolls back what is open.
	acquire.Conn

	// Run runs fn in the transaction and returns fn's error.
	Run(ctx context.Context) error

	// Refuse returns why the transaction cannot be committed, now that fn is over,
	// and the outcome. That is Unknown, and the error is ErrTxEnded, where fn has
	// ended the transaction, and may have committed.
	Refuse(ctx context.Context) (Outcome, error)

	// Commit commits, where Refuse has returned nil, and returns the outcome with
	// its error.
	Commit(ctx context.Context) (Outcome, error)

	// Lost reports whether the session is known to be gone. It and Cut may be
	// called whatever else is done with the connection.
	Lost() bool

	// Cut ends the session, beside its user, and reports whether it can.
	Cut() bool
}

// Outcome is how a call ended.
type Outcome int

// The outcomes. xactlock's have the same numbers.
const (
	Committed Outcome = iota
	RolledBack
	NotAcquired
	Failed
	Unknown
	Granted // and not ended
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
	Tag     string // of the command

	Busy  bool // the lock was not to be had within the limit, and nothing was executed
	Dead  bool // the connection was dead, and nothing was executed
	Unfit bool // the statement cannot go in one message, and nothing was sent
}

// Execer is a Conn that can do all of an Exec in one message. If ctx or waitCtx
// ends before the grant, the outcome is NotAcquired.
type Execer interface {
	Exec(ctx, waitCtx context.Context, limit time.Duration) Executed
}
