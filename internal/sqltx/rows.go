package sqltx

import (
	"context"
	"database/sql/driver"
	"io"
	"reflect"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// rows is what a query returned, of whatever driver. Its statement runs, and is
// watched over, until it is closed.
//
// It has all optional methods of driver.Rows. For those that the driver's rows
// do not have, it answers what database/sql assumes then.
type rows struct {
	driver.Rows
	conn   *conn
	ctx    context.Context // of the query
	watch  *interrupt.Watch
	closed bool // guarded by conn.mu
}

// mind hands over the watch of the statement. The Tx may have ended since.
func (r *rows) mind(w *interrupt.Watch) {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	if r.watch = w; r.closed {
		w.Stop()
	}
}

// Next is driver.Rows's. An error in the middle is the statement's.
func (r *rows) Next(dest []driver.Value) error {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	if r.closed {
		return io.EOF
	}
	err := r.Rows.Next(dest)
	if err == nil || err == io.EOF {
		return err
	}
	r.conn.note(err)
	return lockerr.Because(r.ctx, err)
}

// Close is driver.Rows's.
func (r *rows) Close() error {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	return r.closeLocked()
}

func (r *rows) closeLocked() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.conn.forget(r)
	defer r.watch.Stop()
	err := r.Rows.Close()
	r.conn.note(err)
	return lockerr.Because(r.ctx, err)
}

func (r *rows) HasNextResultSet() bool {
	next, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && next.HasNextResultSet()
}

func (r *rows) NextResultSet() error {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	next, ok := r.Rows.(driver.RowsNextResultSet)
	if !ok || r.closed {
		return io.EOF
	}
	return next.NextResultSet()
}

func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	if typed, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return typed.ColumnTypeScanType(index)
	}
	return reflect.TypeFor[any]()
}

func (r *rows) ColumnTypeDatabaseTypeName(index int) string {
	if typed, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return typed.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}

func (r *rows) ColumnTypeLength(index int) (length int64, ok bool) {
	if typed, ok := r.Rows.(driver.RowsColumnTypeLength); ok {
		return typed.ColumnTypeLength(index)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(index int) (nullable, ok bool) {
	if typed, ok := r.Rows.(driver.RowsColumnTypeNullable); ok {
		return typed.ColumnTypeNullable(index)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool) {
	if typed, ok := r.Rows.(driver.RowsColumnTypePrecisionScale); ok {
		return typed.ColumnTypePrecisionScale(index)
	}
	return 0, 0, false
}
