package xactlock

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// execer is what a verdict is asked on.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// askVerdict sends a message that ends in a verdict, and reports whether the
// lock is granted.
func askVerdict(ctx context.Context, on execer, message string) (bool, error) {
	result, err := on.ExecContext(ctx, message)
	if err != nil {
		return false, err
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return false, err
	}
	switch rows {
	case locksql.VerdictRefused:
		return false, nil
	case locksql.VerdictGranted:
		return true, nil
	case locksql.VerdictStale:
		return false, ErrStaleSnapshot
	case locksql.VerdictStandby:
		return false, ErrStandby
	case locksql.VerdictPretends:
		return false, ErrUnsupportedServer
	}
	return false, fmt.Errorf("xactlock: the driver reports %d rows for a select of at most %d", rows, locksql.VerdictPretends)
}

// pastDeadline returns a ctx that ends with parent's cancellation, but only
// some time after its deadline: the server knows that as lock_timeout, and its
// answer leaves the connection whole, where a ctx that ends would not.
func pastDeadline(parent context.Context) (context.Context, context.CancelFunc) {
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
