package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
	"github.com/pgadvisory/pgadvisory/internal/pgsession"
)

// Exec runs one statement under the lock of key, in a transaction of its own,
// and commits. It is [Locker.WithTx] for the hottest keys: BEGIN, the lock, the
// statement and COMMIT go to the server in one message (once the connection
// has the statement prepared), so that the lock is held for as long as the
// server executes and for no round trip.
//
// If Exec returns nil, the statement's effects are committed. It returns the
// errors of WithTx; where the statement failed, that is the driver's
// error, and nothing is committed. If ctx ends while the answer is awaited,
// the server is asked to cancel; the error is [ErrCommitUnknown], joined with
// ctx's own, where it does not tell in time whether it has. A statement that
// ends the transaction is reported as [ErrTxEnded], with what it did done.
//
// Of the Execs of one Locker for one key, at most 8 are under way, and no more
// than half of the pool (of a pool without a limit, 4), first come, first
// served; the rest wait in memory. An Exec that finds the lock held for longer
// than half a second waits on, as WithTx does, while no other is under way.
//
// The statement runs at READ COMMITTED, where it sees all that earlier holders
// committed. At a higher Options.Isolation, with Poll, MaxHold or Plain, on
// drivers other than pgx, where pgx uses the simple protocol, and where the server
// cannot prepare the statement before the lock is held, as its table is not there
// yet, Exec runs as a WithTx. Where args are none, text of several statements is
// refused by the server in one message, and executed in a WithTx. COPY FROM STDIN
// is refused: its rows have no way in.
func (l *Locker) Exec(ctx context.Context, key hashkey.Key, query string, args ...any) (sql.Result, error) {
	e := &execution{query: query, args: args}
	if err := l.exec(ctx, key, e); err != nil {
		return nil, err
	}
	return e.result, nil
}

// exec runs a statement under the lock of key, in one message where that can be.
func (l *Locker) exec(ctx context.Context, key hashkey.Key, e *execution) (err error) {
	c, err := l.newCall(key, nil, false, e.asFunc)
	if err == nil {
		err = c.Refuse(e.query)
	}
	ctx = c.Tell(ctx, l.calls().Tell, "Exec")
	defer func() { c.Told(ctx, err) }()
	switch {
	case err != nil:
		return err
	case l.opts.Plain, !l.calls().Settings.OneMessage():
		return c.Run(ctx)
	}
	c.pool.query = &pgsession.Query{SQL: e.query, Args: unnamed(e.args)}
	tag, oneMessage, err := c.Exec(ctx)
	if oneMessage {
		e.result = driver.RowsAffected(pgconn.NewCommandTag(tag).RowsAffected()) // as pgx's
	}
	return err
}

// execution is the statement of an Exec.
type execution struct {
	query  string
	args   []any
	result sql.Result
}

// unnamed returns args with the values of those that have a name, which is what
// database/sql and pgx make of them.
func unnamed(args []any) []any {
	values := slices.Clone(args)
	for i, arg := range args {
		if named, ok := arg.(sql.NamedArg); ok {
			values[i] = named.Value
		}
	}
	return values
}

// asFunc runs the statement as a WithTx.
func (e *execution) asFunc(ctx context.Context, tx *sql.Tx) (err error) {
	if e.result, err = tx.ExecContext(ctx, e.query, e.args...); err == nil {
		e.result = read(e.result)
	}
	return lockerr.Because(nesting.Caller(ctx), err) // a driver may not tell
}

// result is a sql.Result that is read. That of database/sql waits for its
// connection, which runs the statements of other calls when its own is over: the
// connections that fn's transactions are made of go round among all pools.
type result struct {
	id, rows       int64
	idErr, rowsErr error
}

// read returns what r says.
func read(r sql.Result) *result {
	var all result
	all.id, all.idErr = r.LastInsertId()
	all.rows, all.rowsErr = r.RowsAffected()
	return &all
}

func (r *result) LastInsertId() (int64, error) { return r.id, r.idErr }
func (r *result) RowsAffected() (int64, error) { return r.rows, r.rowsErr }
