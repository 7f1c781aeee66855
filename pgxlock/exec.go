package pgxlock

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// Exec runs one statement under the lock of key, in a transaction of its own,
// and commits. It is [Locker.WithTx] for the hottest keys: BEGIN, the lock, the
// statement and COMMIT go to the server in one message (once the connection
// has the statement prepared), so that the lock is held for as long as the
// server executes and for no round trip. A pgx.QueryExecMode or a
// pgx.QueryRewriter may come first among args, as in pgx.
//
// If Exec returns nil, the statement's effects are committed. Its errors are as
// with WithTx; where the statement failed, the error is pgx's, and nothing is
// committed. If ctx ends while the answer is awaited,
// the server is asked to cancel; the error is [ErrCommitUnknown], joined with
// ctx's own, where it does not tell in time whether it has. A statement that
// ends the transaction is reported as [ErrTxEnded], with what it did done.
//
// Of the Execs of one Locker for one key, at most 8 are under way, and no more
// than half of the pool, first come, first served; the rest wait in memory. An
// Exec that finds the lock held for longer than half a second waits on, as WithTx
// does, while no other is under way.
//
// The statement runs at READ COMMITTED, where it sees all that earlier holders
// committed. At a higher Options.Isolation, with Poll or MaxHold, where pgx uses the
// simple protocol, and where the server cannot prepare the statement before the lock
// is held, as its table is not there yet, Exec runs as a WithTx. Where args are none,
// text of several statements is refused by the server in one message, and executed
// in a WithTx. COPY FROM STDIN is refused: its rows have no way in.
func (l *Locker) Exec(ctx context.Context, key hashkey.Key, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	asFunc := func(ctx context.Context, tx pgx.Tx) (err error) {
		tag, err = tx.Exec(ctx, sql, args...)
		return err
	}
	c, err := l.newCall(key, nil, false, asFunc)
	if err == nil {
		err = c.Refuse(sql)
	}
	ctx = c.Tell(ctx, l.calls().Tell, "Exec")
	defer func() { c.Told(ctx, err) }()
	switch {
	case err != nil:
		return tag, err
	case !l.calls().Settings.OneMessage():
		err = c.Run(ctx)
	default:
		c.pool.query = &pgsession.Query{SQL: sql, Args: args}
		var text string
		var oneMessage bool
		if text, oneMessage, err = c.Exec(ctx); oneMessage {
			tag = pgconn.NewCommandTag(text)
		}
	}
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tag, nil
}
