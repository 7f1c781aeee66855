// Package lockerr holds the errors that xactlock and sessionlock share, and
// tells them from what a driver returns.
package lockerr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// The sentinels that both packages export.
var (
	NotAcquired       = errors.New("pgadvisory: lock not acquired")
	Nested            = errors.New("pgadvisory: lock asked for inside a callback that already holds one on this pool")
	Deadlock          = errors.New("pgadvisory: deadlock detected")
	LockTableFull     = errors.New("pgadvisory: the server's lock table is full (see max_locks_per_transaction)")
	UnsupportedServer = errors.New("pgadvisory: this server accepts advisory lock functions and locks nothing")
	Standby           = errors.New("pgadvisory: advisory locks of a hot standby exclude nobody on the primary")
)

// SQLSTATE codes, from the PostgreSQL manual's appendix of error codes.
const (
	codeDeadlock      = "40P01" // deadlock_detected
	codeLockTableFull = "53200" // out_of_memory, which is how shared memory for locks runs out
	codeLockTimeout   = "55P03" // lock_not_available
	codeCanceled      = "57014" // query_canceled
)

// SQLState returns the SQLSTATE of err, whatever driver it comes from, or "".
func SQLState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// IsAnswer reports whether err is the server's word on a statement, and not
// one that ends the session (classes 57P and 08) or comes from the network.
func IsAnswer(err error) bool {
	code := SQLState(err)
	return code != "" && !strings.HasPrefix(code, "57P") && !strings.HasPrefix(code, "08")
}

// WaitEnded reports whether err is the server's answer to a wait that reached a
// limit or was cancelled.
func WaitEnded(err error) bool {
	code := SQLState(err)
	return code == codeLockTimeout || code == codeCanceled
}

// Keys names keys in a message as people wrote them.
func Keys(keys []hashkey.Key) string {
	const most = 4
	var b strings.Builder
	for i, key := range keys {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(keys)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(key.String())
	}
	return b.String()
}

// Acquire returns the error of an acquisition that failed with err.
//
// If ctx has ended, or the wait reached its limit on the server, that is
// NotAcquired joined with why. Otherwise err comes back with the sentinel of
// its SQLSTATE, if there is one, joined. pkg is the prefix of the message.
func Acquire(ctx context.Context, pkg string, keys []hashkey.Key, err error) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		// A dial that reaches the deadline has a timer of its own, which may
		// have been a moment earlier than ctx's.
		<-ctx.Done()
	}
	switch {
	case ctx.Err() != nil:
		return ended(ctx, keys, err)
	case SQLState(err) == codeLockTimeout:
		// Only a limit of this library's own is in force while it waits.
		return fmt.Errorf("%w: %s: %w (%w)", NotAcquired, Keys(keys), context.DeadlineExceeded, err)
	}
	switch SQLState(err) {
	case codeDeadlock:
		return fmt.Errorf("%w: %s: %w", Deadlock, Keys(keys), err)
	case codeLockTableFull:
		return fmt.Errorf("%w: %s: %w", LockTableFull, Keys(keys), err)
	}
	return fmt.Errorf("%s: %s: %w", pkg, Keys(keys), err)
}

func ended(ctx context.Context, keys []hashkey.Key, err error) error {
	why := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(cause, why) {
		why = fmt.Errorf("%w: %w", why, cause)
	}
	if err == nil || errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %s: %w", NotAcquired, Keys(keys), why)
	}
	return fmt.Errorf("%w: %s: %w (%w)", NotAcquired, Keys(keys), why, err)
}
