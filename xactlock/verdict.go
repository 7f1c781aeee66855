package xactlock

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// execer is what a verdict is asked on.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// askVerdict sends a message that ends in a verdict, and reports whether the
// lock is granted.
func askVerdict(ctx context.Context, on execer, message locksql.Message) (bool, error) {
	result, err := send(ctx, on, message)
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

// send sends a message, and returns the result of its last statement. A
// transaction that prepares its texts gets one statement at a time.
func send(ctx context.Context, on execer, m locksql.Message) (result sql.Result, err error) {
	if !preparesTexts(on) {
		result, err = on.ExecContext(ctx, m.Text())
		return result, explained(err)
	}
	for _, s := range m.Statements {
		args := make([]any, len(s.Params))
		for i, p := range s.Params {
			args[i] = strconv.FormatInt(p.Number, 10)
		}
		if result, err = on.ExecContext(ctx, s.SQL, args...); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// preparesTexts reports whether a transaction may prepare each text that it is
// given, so that it must be one statement: gorm's with PrepareStmt, which has
// this method (gorm.GetDBConnector), does.
func preparesTexts(on execer) bool {
	_, ok := on.(interface{ GetDBConn() (*sql.DB, error) })
	return ok
}

// explained adds to the error of a transaction that has prepared a text of several
// statements what can be done.
func explained(err error) error {
	const syntaxError = "42601"
	if lockerr.SQLState(err) != syntaxError {
		return err
	}
	return fmt.Errorf("tx prepares its texts, and seems to be wrapped: give it a method GetDBConn() (*sql.DB, error), "+
		"and it is sent one statement at a time: %w", err)
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
