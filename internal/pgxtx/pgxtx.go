// Package pgxtx makes a pgx.Tx of a transaction that is already open on a
// connection in our hands. Ending the transaction is left to the package's user,
// and when a statement's ctx ends, the server is asked to cancel the statement,
// where pgx alone would close the connection.
package pgxtx

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/txguard"
)

var errBatchBegins = errors.New("Batch.BeginTx cannot be used within a transaction")

// Tx is a pgx.Tx: that of fn, or one nested in it, which is a savepoint.
//
// As with pgx's own, one goroutine uses it at a time. Another one gets an error,
// and so does a callback that a statement calls: to wait for each other would be
// for ever.
type Tx struct {
	c         *conn
	savepoint string // "" for fn's own
	closed    atomic.Bool
}

// Begin returns a Tx for the transaction that is open on c, and holds keys, and for an
// fn with the ctx fnCtx. The policy is that of its statements.
func Begin(fnCtx context.Context, c *pgx.Conn, policy interrupt.Policy, keys []hashkey.Key) *Tx {
	return &Tx{c: &conn{pgx: c, Guard: txguard.Make(fnCtx, c.PgConn(), policy, keys, pgx.ErrTxClosed)}}
}

// Guard returns what stands between fn and the connection.
func (tx *Tx) Guard() *txguard.Guard { return &tx.c.Guard }

// use is [txguard.Guard.Use] for one user at a time.
func (tx *Tx) use(ctx context.Context, keep bool, f func(context.Context, *interrupt.Watch) error) error {
	if tx.savepoint != "" && tx.closed.Load() {
		return pgx.ErrTxClosed
	}
	if !tx.c.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	defer tx.c.busy.Store(false)
	return tx.c.Use(ctx, keep, f)
}

// Begin begins a nested transaction, as pgx does: with a savepoint.
func (tx *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	name := "sp_" + strconv.FormatInt(tx.c.savepoints.Add(1), 10)
	if _, err := tx.Exec(ctx, "savepoint "+name); err != nil {
		return nil, err
	}
	return &Tx{c: tx.c, savepoint: name}, nil
}

// Commit releases the savepoint of a nested transaction. That of fn is not fn's to
// commit.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.savepoint != "" {
		return tx.end(ctx, "release savepoint "+tx.savepoint)
	}
	if tx.c.Over() || tx.closed.Swap(true) {
		return pgx.ErrTxClosed
	}
	tx.c.MarkEnded(lockerr.EndedByCommit)
	return tx.c.Ended()
}

// Rollback goes back to the savepoint of a nested transaction. That of fn, and the
// lock, stay until fn has returned.
func (tx *Tx) Rollback(ctx context.Context) error {
	if tx.savepoint != "" {
		return tx.end(ctx, "rollback to savepoint "+tx.savepoint)
	}
	if tx.c.Over() || tx.closed.Swap(true) {
		return pgx.ErrTxClosed
	}
	tx.c.MarkEnded(lockerr.EndedByRollback)
	return nil
}

// end ends a nested transaction.
func (tx *Tx) end(ctx context.Context, sql string) error {
	_, err := tx.Exec(ctx, sql)
	tx.closed.Store(true)
	return err
}

// Exec is pgx.Tx's.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	tx.c.Read(sql)
	err = tx.use(ctx, false, func(ctx context.Context, _ *interrupt.Watch) (err error) {
		tag, err = tx.c.pgx.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// Prepare is pgx.Tx's. The statement stays on the connection, as pgx's do.
func (tx *Tx) Prepare(ctx context.Context, name, sql string) (d *pgconn.StatementDescription, err error) {
	tx.c.Read(sql)
	err = tx.use(ctx, false, func(ctx context.Context, _ *interrupt.Watch) (err error) {
		d, err = tx.c.pgx.Prepare(ctx, name, sql)
		return err
	})
	return d, err
}

// CopyFrom is pgx.Tx's.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (n int64, err error) {
	err = tx.use(ctx, false, func(ctx context.Context, w *interrupt.Watch) (err error) {
		n, err = tx.c.pgx.CopyFrom(ctx, table, columns, &copySource{source, w})
		return err
	})
	return n, err
}

// copySource is a source of rows, which may take its time also when the watch over the
// statement has ended it.
type copySource struct {
	pgx.CopyFromSource
	watch *interrupt.Watch
}

// Next is pgx.CopyFromSource's.
func (s *copySource) Next() bool {
	s.watch.Idle(true)
	defer s.watch.Idle(false)
	return s.CopyFromSource.Next()
}

// Values is pgx.CopyFromSource's.
func (s *copySource) Values() ([]any, error) {
	s.watch.Idle(true)
	defer s.watch.Idle(false)
	return s.CopyFromSource.Values()
}

// Query is pgx.Tx's.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return tx.query(ctx, sql, args)
}

// QueryRow is pgx.Tx's.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r, _ := tx.query(ctx, sql, args) // r has the error
	return row{r}
}

func (tx *Tx) query(ctx context.Context, sql string, args []any) (*rows, error) {
	tx.c.Read(sql)
	r := &rows{conn: tx.c, ctx: ctx}
	r.reading = &r.watch
	err := tx.use(ctx, true, func(ctx context.Context, w *interrupt.Watch) (err error) {
		if !tx.c.free() { // pgx would end the batch that is open, or the session with it
			return errBusy
		}
		if r.Rows, err = tx.c.pgx.Query(ctx, sql, args...); err == nil {
			r.watch = w
			tx.c.Add(r)
			if tx.c.free() { // as where the connection was lost
				_ = r.close(nil) // r has the error
			} else {
				r.describe()
			}
		}
		return err
	})
	if err != nil {
		r.fail(err)
	}
	return r, err
}

// SendBatch is pgx.Tx's.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if failed := pgx.FailedBatchResults(b, errBatchBegins); failed.Tx() != nil {
		return failed
	}
	for _, q := range b.QueuedQueries {
		tx.c.Read(q.SQL)
	}
	r := &batchResults{conn: tx.c, ctx: ctx, batch: b}
	err := tx.use(ctx, true, func(ctx context.Context, w *interrupt.Watch) error {
		if !tx.c.free() { // pgx would not send it, and the watch would go on over what is open
			return errBusy
		}
		r.results = tx.c.pgx.SendBatch(ctx, b)
		r.watch = w
		r.failed = b.Len() > 0 && tx.c.free() // it was not sent
		tx.c.Add(r)
		r.used()
		return nil
	})
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return r
}

// Conn is pgx.Tx's: the connection that the guard stands before.
func (tx *Tx) Conn() *pgx.Conn { return tx.c.expose() }
