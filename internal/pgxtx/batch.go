package pgxtx

import (
	"cmp"
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
	read    int              // guarded by conn: how many results have been asked for
	failed  bool             // guarded by conn: it could not be sent, or a result was an error
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
	r.read++
	err := f()
	r.conn.Note(err)
	r.failed = r.failed || err != nil
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
	failed := r.callBack()
	if err := r.conn.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	if r.done || r.conn.Over() {
		r.err = cmp.Or(failed, r.err) // a callback may have closed the batch
		return r.err
	}
	return r.finish(errRowsClosed, failed)
}

// callBack reads the batch and runs its callbacks, up to the first error, and none where
// there was an error before. It returns the error of a callback. pgx would run
// them as a part of its Close: one that is slow would pass for a server that does not
// answer, and have the connection cut where ctx has ended.
func (r *batchResults) callBack() (err error) {
	for err == nil {
		fn, more := r.next()
		switch {
		case fn != nil:
			err = fn(r)
		case more:
			_, err = r.Exec()
		default:
			return nil
		}
	}
	return err
}

// next reports whether the batch has a result that is not read, and returns the callback
// for it, if there is one that has not run.
func (r *batchResults) next() (fn func(pgx.BatchResults) error, more bool) {
	if r.conn.enter() != nil {
		return nil, false
	}
	defer r.conn.leave()
	if r.done || r.conn.Over() || r.hasFailed() || r.read >= len(r.batch.QueuedQueries) {
		return nil, false
	}
	q := r.batch.QueuedQueries[r.read]
	fn, q.Fn = q.Fn, nil
	return fn, true
}

// hasFailed reports whether there was an error, also in rows that were read.
func (r *batchResults) hasFailed() bool {
	return r.failed || r.rows != nil && r.rows.Rows.Err() != nil
}

// CloseLocked is txguard.Open's. It runs no callbacks: fn has returned.
func (r *batchResults) CloseLocked() error { return r.finish(pgx.ErrTxClosed, nil) }

// Runs is txguard.Open's.
func (r *batchResults) Runs() bool { return !r.conn.free() }

// finish closes the batch, and rows of it that are open, which have the error cut.
// failed is the error of a callback, or nil.
func (r *batchResults) finish(cut, failed error) error {
	r.closeRows(cut)
	for _, q := range r.batch.QueuedQueries { // what is left of the batch is read, and nothing called
		q.Fn = nil
	}
	r.watch.Idle(false)
	defer r.used() // also where a tracer panics
	err := r.results.Close()
	r.done = true
	r.conn.Forget(r)
	r.stop()
	r.conn.Note(err)
	r.err = cmp.Or(failed, lockerr.Because(r.ctx, err))
	return r.err
}

// Tx is pgx.BatchResults's: the batch has begun none.
func (r *batchResults) Tx() pgx.Tx { return nil }
