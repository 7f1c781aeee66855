package pgxtx

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// rows is what a query returned. Its statement runs, and is watched over, until it
// is closed. The rows of a batch are watched over with the batch.
type rows struct {
	pgx.Rows // nil if the query could not be sent
	conn     *conn
	ctx      context.Context   // of the query
	watch    *interrupt.Watch  // nil for those of a batch
	reading  **interrupt.Watch // over what is read: where it is, that of the rows or of their batch
	fields   []pgconn.FieldDescription
	missed   atomic.Bool       // a row was asked for while fn used the connection otherwise
	done     atomic.Bool       // nothing of it reaches the connection any more
	tag      pgconn.CommandTag // set before done is
	err      error             // set before done is
}

// describe copies the descriptions of rows that pgx has opened. The next user of the
// connection has pgx write over them.
func (r *rows) describe() { r.fields = slices.Clone(r.Rows.FieldDescriptions()) }

// use calls f, while the rows are open.
func (r *rows) use(f func() error) error {
	if err := r.conn.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	switch {
	case r.done.Load() && r.err != nil:
		return r.err
	case r.done.Load(), r.conn.Over():
		return errRowsClosed
	}
	err := f()
	if err != nil || r.conn.free() { // which a RowScanner may have seen to
		_ = r.close(nil) // as pgx has done; r.err keeps the error
	}
	return err
}

var (
	errNoMore     = errors.New("there are no more rows")
	errRowsClosed = errors.New("rows is closed")
)

// Next is pgx.Rows's.
func (r *rows) Next() bool {
	err := r.use(func() error {
		w := *r.reading // and over nothing else: what a row is scanned into may be slow
		w.Idle(false)
		defer w.Idle(true)
		if !r.Rows.Next() {
			return errNoMore
		}
		return nil
	})
	if err == errBusy {
		r.missed.Store(true)
	}
	return err == nil
}

// Scan is pgx.Rows's.
func (r *rows) Scan(dest ...any) error {
	return r.use(func() error { return r.Rows.Scan(dest...) })
}

// Values is pgx.Rows's.
func (r *rows) Values() (values []any, err error) {
	err = r.use(func() (err error) {
		values, err = r.Rows.Values()
		return err
	})
	return values, err
}

// RawValues is pgx.Rows's.
func (r *rows) RawValues() (values [][]byte) {
	_ = r.use(func() error { // there are none, if the rows are closed
		values = r.Rows.RawValues()
		return nil
	})
	return values
}

// FieldDescriptions is pgx.Rows's.
func (r *rows) FieldDescriptions() []pgconn.FieldDescription {
	if r.conn.Over() {
		return nil
	}
	return r.fields
}

// CommandTag is pgx.Rows's.
func (r *rows) CommandTag() pgconn.CommandTag {
	if !r.done.Load() {
		return pgconn.CommandTag{}
	}
	return r.tag
}

// Conn is pgx.Rows's.
func (r *rows) Conn() *pgx.Conn { return r.conn.expose() }

// TypeMap is pgx.Rows's.
func (r *rows) TypeMap() *pgtype.Map { return r.conn.pgx.TypeMap() }

// Err is pgx.Rows's. Rows that are open have no error yet, unless a row was missed.
func (r *rows) Err() error {
	switch {
	case r.done.Load() && r.err != nil:
		return r.err
	case r.missed.Load():
		return errBusy
	case r.done.Load():
		return nil
	case r.conn.Over(): // a batch's
		return pgx.ErrTxClosed
	}
	return nil
}

// Close is pgx.Rows's.
func (r *rows) Close() {
	if r.conn.enter() != nil {
		return // they are in use, and closed with the transaction
	}
	defer r.conn.leave()
	if !r.conn.Over() {
		_ = r.close(nil) // Err returns it
	}
}

// CloseLocked is txguard.Open's. fn may still read the rows, and has not come to their
// end.
func (r *rows) CloseLocked() error { return r.close(pgx.ErrTxClosed) }

// close closes rows that are open, which have the error cut if there is no other. The
// guard is locked.
func (r *rows) close(cut error) error {
	if r.done.Load() {
		return r.err
	}
	(*r.reading).Idle(false)
	r.Rows.Close()
	r.conn.Forget(r)
	r.watch.Stop()
	(*r.reading).Idle(true)
	err := r.Rows.Err()
	r.conn.Note(err)
	if err == nil {
		err = cut
	}
	r.tag = r.Rows.CommandTag()
	r.fail(lockerr.Because(r.ctx, err))
	return r.err
}

// Runs is txguard.Open's.
func (r *rows) Runs() bool { return true }

// fail ends the rows with err, which may be nil.
func (r *rows) fail(err error) {
	r.err = err
	r.done.Store(true)
}

// row is the first of rows.
type row struct{ rows *rows }

// Scan is pgx.Row's.
func (r row) Scan(dest ...any) error {
	defer r.rows.Close()
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return errors.New("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
