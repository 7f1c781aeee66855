package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/txguard"
)

// conn is the driver connection that a Tx runs on.
type conn struct {
	driver.Conn // as it came from the pool
	txguard.Guard
}

// Close closes nothing: the connection is the pool's.
func (c *conn) Close() error { return nil }

// BeginTx begins nothing: the transaction is open.
func (c *conn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return c, nil }

// Commit is fn's attempt to commit, and refused.
func (c *conn) Commit() error {
	c.MarkEnded(lockerr.EndedByCommit)
	return c.Ended()
}

// Rollback is fn's, or End's way to close the *sql.Tx. The transaction and the
// lock stay until fn has returned.
func (c *conn) Rollback() error {
	if !c.Over() {
		c.MarkEnded(lockerr.EndedByRollback)
	}
	return nil
}

// CheckNamedValue leaves arguments to the connection's own checker, or where it
// has none to database/sql.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (result driver.Result, err error) {
	execer, ok := c.Conn.(driver.ExecerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	c.Read(query)
	err = c.Use(ctx, false, func(ctx context.Context, _ *interrupt.Watch) (err error) {
		result, err = execer.ExecContext(ctx, query, args)
		return err
	})
	return result, err
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	queryer, ok := c.Conn.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	c.Read(query)
	return c.query(ctx, func(ctx context.Context) (driver.Rows, error) {
		return queryer.QueryContext(ctx, query, args)
	})
}

func (c *conn) query(ctx context.Context, f func(context.Context) (driver.Rows, error)) (driver.Rows, error) {
	r := &rows{conn: c, ctx: ctx}
	err := c.Use(ctx, true, func(ctx context.Context, w *interrupt.Watch) (err error) {
		if r.Rows, err = f(ctx); err == nil {
			r.watch = w
			c.Add(r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.Read(query)
	st := &stmt{conn: c}
	err := c.Use(ctx, false, func(ctx context.Context, _ *interrupt.Watch) (err error) {
		if preparer, ok := c.Conn.(driver.ConnPrepareContext); ok {
			st.Stmt, err = preparer.PrepareContext(ctx, query)
		} else {
			st.Stmt, err = c.Prepare(query)
		}
		if err == nil {
			c.Add(st)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// stmt is a statement that fn prepared on its transaction.
type stmt struct {
	driver.Stmt
	conn   *conn
	closed bool // guarded by conn
}

var errNoContext = errors.New("xactlock: the driver's statements take no context; use Options.Plain")

func (st *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := st.Stmt.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return st.conn.CheckNamedValue(v)
}

func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (result driver.Result, err error) {
	execer, ok := st.Stmt.(driver.StmtExecContext)
	if !ok {
		return nil, errNoContext
	}
	err = st.conn.Use(ctx, false, func(ctx context.Context, _ *interrupt.Watch) (err error) {
		result, err = execer.ExecContext(ctx, args)
		return err
	})
	return result, err
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	queryer, ok := st.Stmt.(driver.StmtQueryContext)
	if !ok {
		return nil, errNoContext
	}
	return st.conn.query(ctx, func(ctx context.Context) (driver.Rows, error) {
		return queryer.QueryContext(ctx, args)
	})
}

// Close is driver.Stmt's.
func (st *stmt) Close() error {
	st.conn.Lock()
	defer st.conn.Unlock()
	return st.CloseLocked()
}

// CloseLocked is txguard.Open's.
func (st *stmt) CloseLocked() error {
	if st.closed {
		return nil
	}
	st.closed = true
	st.conn.Forget(st)
	return st.Stmt.Close()
}

// Runs is txguard.Open's. A statement that is prepared and executed has ended, or has
// rows.
func (st *stmt) Runs() bool { return false }

// rows is what a query returned, of whatever driver. Its statement runs, and is
// watched over, until it is closed.
//
// It has all optional methods of driver.Rows. Where the driver's rows lack
// one, it answers what database/sql assumes then.
type rows struct {
	driver.Rows
	conn   *conn
	ctx    context.Context // of the query
	watch  *interrupt.Watch
	closed bool // guarded by conn
}

// Next is driver.Rows's. An error in the middle is the statement's.
func (r *rows) Next(dest []driver.Value) error {
	r.conn.Lock()
	defer r.conn.Unlock()
	if r.closed { // by End: database/sql does not ask rows that it has closed
		return sql.ErrTxDone
	}
	r.watch.Idle(false)
	defer r.watch.Idle(true)
	err := r.Rows.Next(dest)
	if err == nil || err == io.EOF {
		return err
	}
	r.conn.Note(err)
	return lockerr.Because(r.ctx, err)
}

// Close is driver.Rows's.
func (r *rows) Close() error {
	r.conn.Lock()
	defer r.conn.Unlock()
	return r.CloseLocked()
}

// CloseLocked is txguard.Open's.
func (r *rows) CloseLocked() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.conn.Forget(r)
	r.watch.Idle(false)
	defer r.watch.Stop()
	err := r.Rows.Close()
	r.conn.Note(err)
	return lockerr.Because(r.ctx, err)
}

// Runs is txguard.Open's.
func (r *rows) Runs() bool { return true }

func (r *rows) HasNextResultSet() bool {
	next, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && next.HasNextResultSet()
}

func (r *rows) NextResultSet() error {
	r.conn.Lock()
	defer r.conn.Unlock()
	next, ok := r.Rows.(driver.RowsNextResultSet)
	switch {
	case !ok:
		return io.EOF
	case r.closed:
		return sql.ErrTxDone
	}
	r.watch.Idle(false)
	defer r.watch.Idle(true)
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
