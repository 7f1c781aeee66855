// Package verdict takes locks where the connection is not in our hands: by
// messages that end in a select with as many rows as the verdict says, which is
// all that every driver tells of a message.
package verdict

import (
	"context"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// Exec sends a message, and returns how many rows its last statement had.
type Exec func(ctx context.Context, message locksql.Message) (rows int64, err error)

// Ask sends a message that ends in a verdict, and reports whether the lock is
// granted.
func Ask(ctx context.Context, exec Exec, message locksql.Message) (bool, error) {
	rows, err := exec(ctx, message)
	if err != nil {
		return false, err
	}
	switch rows {
	case locksql.VerdictRefused:
		return false, nil
	case locksql.VerdictGranted:
		return true, nil
	case locksql.VerdictStale:
		return false, lockerr.ErrStaleSnapshot
	case locksql.VerdictStandby:
		return false, lockerr.ErrStandby
	case locksql.VerdictPretends:
		return false, lockerr.ErrUnsupportedServer
	}
	return false, fmt.Errorf("the driver reports %d rows for a select of at most %d", rows, locksql.VerdictPretends)
}

// PastDeadline returns a ctx that ends with parent's cancellation, but only
// some time after its deadline: the server knows that as lock_timeout, and its
// answer leaves the connection whole, where a ctx that ends would not.
func PastDeadline(parent context.Context) (context.Context, context.CancelFunc) {
	const deadlineGrace = 500 * time.Millisecond
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	if parent.Err() != nil {
		cancel() // now, and not when AfterFunc gets to it
	}
	stop := context.AfterFunc(parent, func() {
		if parent.Err() == context.DeadlineExceeded {
			acquire.Sleep(ctx, deadlineGrace)
		}
		cancel()
	})
	return ctx, func() { stop(); cancel() }
}
