package xactlock

import (
	"context"
	"database/sql"

	"github.com/pgadvisory/pgadvisory/internal/locksql"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// Func is what runs while the lock is held. Its ctx is the caller's, marked so
// that a nested call on the same pool is refused rather than waiting for ever.
// It also ends by Options.MaxHold, when the lock is lost (its cause is [ErrLost]
// then), and when the call is over: what Func has left running with it does not
// go on without the lock. Its tx is a transaction that holds the lock, for reads
// and writes only: ending it is WithTx's business.
type Func = func(ctx context.Context, tx *sql.Tx) error

// job is what one call does on a connection.
type job struct {
	fn          Func
	query       *pgsession.Query // of an Exec that may go in one message
	opts        *Options
	transaction locksql.Transaction
}
