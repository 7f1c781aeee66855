package xactlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgtx"
	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// endingPatience is how long a plain transaction may take for its end once ctx
// has ended.
const endingPatience = 5 * time.Second

// refused releases the savepoint of a transaction, and returns why it must not be
// committed, or nil. isDead reports whether its connection is known to be dead.
func refused(ctx context.Context, tx execer, keys []hashkey.Key, isDead func() bool) (txlock.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endingPatience)
	defer cancel()
	_, err := tx.ExecContext(ctx, locksql.Release)
	switch {
	case err == nil:
		return txlock.Committed, nil
	case errors.Is(err, sql.ErrTxDone):
		return txlock.Unknown, lockerr.TxEnded(keys, lockerr.EndedUnseen)
	case pgtx.NoSuchSavepoint(err):
		return txlock.Unknown, lockerr.TxEnded(keys, lockerr.EndedByText)
	case lockerr.InFailedTransaction(err): // after which bun's pgdriver calls its connection dead
		return txlock.RolledBack, pgtx.Swallowed(pkg, keys, err)
	case ctx.Err() != nil, isDead(), lockerr.SQLState(err) != "" && !lockerr.IsAnswer(err):
		return txlock.RolledBack, lockerr.Lost(keys, err)
	case lockerr.SQLState(err) == "":
		// The driver has not sent it: fn has left rows open, which
		// database/sql closes before it commits.
		return txlock.Committed, nil
	}
	return txlock.RolledBack, fmt.Errorf("%s: %s: rolled back: %w", pkg, lockerr.Keys(keys), err)
}

// endAfter has end called a while after ctx has ended, or as soon as txCtx has. stop
// reports whether it has prevented that.
func endAfter(ctx, txCtx context.Context, while time.Duration, end func()) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		acquire.Sleep(txCtx, while)
		end()
	})
}

// committed returns the outcome of a transaction where Commit has returned err.
func committed(keys []hashkey.Key, err error) (txlock.Outcome, error) {
	switch {
	case err == nil:
		return txlock.Committed, nil
	case errors.Is(err, sql.ErrTxDone):
		return txlock.Unknown, lockerr.TxEnded(keys, lockerr.EndedUnseen)
	case errors.Is(err, pgx.ErrTxCommitRollback), isPqRollback(err):
		return txlock.RolledBack, pgtx.Swallowed(pkg, keys, nil)
	case lockerr.EndedWhileIdle(err):
		return txlock.RolledBack, lockerr.Lost(keys, err)
	case lockerr.IsAnswer(err):
		return txlock.Failed, fmt.Errorf("%s: %s: commit: %w", pkg, lockerr.Keys(keys), err)
	}
	return txlock.Unknown, lockerr.CommitUnknown(keys, err)
}

// isPqRollback reports whether err is that with which lib/pq rolls back in place of a
// COMMIT, "could not complete operation in a failed transaction". It has no SQLSTATE.
func isPqRollback(err error) bool {
	return strings.HasSuffix(err.Error(), "in a failed transaction")
}
