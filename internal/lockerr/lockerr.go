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
	ErrNotAcquired       = errors.New("pgadvisory: lock not acquired")
	ErrNested            = errors.New("pgadvisory: lock asked for inside a callback that already holds one on this pool")
	ErrDeadlock          = errors.New("pgadvisory: deadlock detected")
	ErrLockTableFull     = errors.New("pgadvisory: the server's lock table is full (see max_locks_per_transaction)")
	ErrUnsupportedServer = errors.New("pgadvisory: this server accepts advisory lock functions and locks nothing")
	ErrStandby           = errors.New("pgadvisory: advisory locks of a hot standby exclude nobody on the primary")
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
	if err == nil {
		return ""
	}
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
// ErrNotAcquired joined with why. Otherwise err comes back with the sentinel of
// its SQLSTATE, if there is one, joined. pkg is the prefix of the message.
func Acquire(ctx context.Context, pkg string, keys []hashkey.Key, err error) error {
	if why := ended(ctx); why != nil {
		return notAcquired(keys, why, err)
	}
	switch SQLState(err) {
	case codeLockTimeout: // the limit is this library's own, while it waits
		return notAcquired(keys, context.DeadlineExceeded, err)
	case codeDeadlock:
		return fmt.Errorf("%w: %s: %w", ErrDeadlock, Keys(keys), err)
	case codeLockTableFull:
		return fmt.Errorf("%w: %s: %w", ErrLockTableFull, Keys(keys), err)
	}
	return fmt.Errorf("%s: %s: %w", pkg, Keys(keys), err)
}

// ended returns why ctx has ended, or nil. A dial or a read that was given
// ctx's deadline can fail a moment before ctx itself notices.
func ended(ctx context.Context) error {
	why := ctx.Err()
	if deadline, ok := ctx.Deadline(); why == nil && ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	if cause := context.Cause(ctx); !errors.Is(cause, why) {
		return fmt.Errorf("%w: %w", why, cause)
	}
	return why
}

// notAcquired returns ErrNotAcquired with why, and with what it looked like to
// the driver where that says more.
func notAcquired(keys []hashkey.Key, why, err error) error {
	if err == nil || errors.Is(err, why) || errors.Is(why, err) {
		return fmt.Errorf("%w: %s: %w", ErrNotAcquired, Keys(keys), why)
	}
	return fmt.Errorf("%w: %s: %w (%w)", ErrNotAcquired, Keys(keys), why, err)
}
