package xactlock

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/verdict"
)

// execer is a connection or a transaction on which a verdict is asked for.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// execOn returns how a verdict is asked for on a connection or a transaction.
func execOn(on execer) verdict.Exec {
	return func(ctx context.Context, m locksql.Message) (int64, error) {
		result, err := send(ctx, on, m)
		if err != nil {
			return 0, err
		}
		return result.RowsAffected()
	}
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
	if !lockerr.IsSyntaxError(err) {
		return err
	}
	return fmt.Errorf("tx prepares its texts, and seems to be wrapped: give it a method GetDBConn() (*sql.DB, error), "+
		"and it is sent one statement at a time: %w", err)
}
