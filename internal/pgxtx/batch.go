package pgxtx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// batchResults is what came of a batch, which is watched over until it is closed.
type batchResults struct {
	results pgx.BatchResults
	conn    *conn
	ctx     context.Context // of the batch
	batch   *pgx.Batch
	watch   *interrupt.Watch // guarded by conn: nil where it is over
	rows    *rows            // guarded by conn: of the last query, nil if there was none
	done    bool             // guarded by conn: nothing of it reaches the connection any more
	err     error            // guarded by conn
}

var errBatchClosed = errors.New("batch already closed")

// use calls f, while the batch is open.
func (r *batchResults) use(f func() error) error {
	if err := r.conn.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	if r.done || r.conn.Over() {
		return errBatchClosed
	}
	r.closeRows(errRowsClosed)
	r.watch.Idle(false)
	defer r.used()
	err := f()
	r.conn.Note(err)
	return lockerr.Because(r.ctx, err)
}

// used is the end of a use of the connection. The watch is over once pgx is done with
// the connection, be it after an error: it would cancel the statements that follow.
func (r *batchResults) used() {
	r.watch.Idle(true)
	if r.conn.free() {
		r.stop()
	}
}

func (r *batchResults) stop() {
	r.watch.Stop()
	r.watch = nil
}

// closeRows closes rows that are open, which have the error cut if there is no other.
// If their batch were read first, pgx would wait for the rest of them for ever.
func (r *batchResults) closeRows(cut error) {
	if r.rows != nil {
		_ = r.rows.close(cut) // pgx's batch returns it as well
	}
}

// Exec is pgx.BatchResults's.
func (r *batchResults) Exec() (tag pgconn.CommandTag, err error) {
	err = r.use(func() (err error) {
		tag, err = r.results.Exec()
		return err
	})
	return tag, err
}

// Query is pgx.BatchResults's.
func (r *batchResults) Query() (pgx.Rows, error) {
	return r.query()
}

// QueryRow is pgx.BatchResults's.
func (r *batchResults) QueryRow() pgx.Row {
	q, _ := r.query() // q has the error
	return row{q}
}

func (r *batchResults) query() (*rows, error) {
	q := &rows{conn: r.conn, ctx: r.ctx, reading: &r.watch}
	err := r.use(func() (err error) {
		if q.Rows, err = r.results.Query(); err == nil {
			q.describe()
			r.rows = q
		}
		return err
	})
	if err != nil {
		q.fail(err)
	}
	return q, err
}

// Close is pgx.BatchResults's. It runs the callbacks of the batch.
func (r *batchResults) Close() error {
	if err := r.conn.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	if r.done || r.conn.Over() {
		return r.err
	}
	return r.finish(errRowsClosed)
}

// CloseLocked is txguard.Open's. It runs no callbacks: fn has returned.
func (r *batchResults) CloseLocked() error {
	r.forgetCallbacks()
	return r.finish(pgx.ErrTxClosed)
}

// Runs is txguard.Open's.
func (r *batchResults) Runs() bool { return !r.conn.free() }

// finish closes the batch, and rows of it that are open, which have the error cut.
func (r *batchResults) finish(cut error) error {
	r.closeRows(cut)
	r.watch.Idle(false)
	defer r.used() // also where a callback panics
	err := r.results.Close()
	r.done = true
	r.conn.Forget(r)
	r.stop()
	r.conn.Note(err)
	r.err = lockerr.Because(r.ctx, err)
	return r.err
}

// forgetCallbacks has what is left of the batch read, and nothing called.
func (r *batchResults) forgetCallbacks() {
	for _, q := range r.batch.QueuedQueries {
		q.Fn = nil
	}
}

// Tx is pgx.BatchResults's: the batch has begun none.
func (r *batchResults) Tx() pgx.Tx { return nil }
