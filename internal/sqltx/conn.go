package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/nesting"
)

// Session is what this package needs of the session that runs the transaction.
// A *pgconn.PgConn is one.
type Session interface {
	interrupt.Conn
	TxStatus() byte
}

// conn is the driver connection that a Tx runs on.
type conn struct {
	driver.Conn // as it came from the pool
	session     Session
	policy      interrupt.Policy

	ended atomic.Bool // fn ended the transaction, or tried to
	over  atomic.Bool // the Tx has ended: nothing may reach the connection

	mu       sync.Mutex // held while the connection is in use
	open     []closer   // guarded by mu: rows and statements that are open
	failure  error      // guarded by mu: the error that made the transaction fail, if it is failed
	panicked bool       // guarded by mu: a panic has passed through database/sql
}

// closer is what End closes in the place of database/sql.
type closer interface{ closeLocked() error }

// Close closes nothing: the connection is the pool's.
func (c *conn) Close() error { return nil }

// BeginTx begins nothing: the transaction is open.
func (c *conn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return c, nil }

// Commit is fn's attempt to commit, and refused.
func (c *conn) Commit() error {
	c.ended.Store(true)
	return lockerr.ErrTxEnded
}

// Rollback is fn's, or End's way to close the *sql.Tx. The transaction and the
// lock stay until fn has returned.
func (c *conn) Rollback() error {
	if !c.over.Load() {
		c.ended.Store(true)
	}
	return nil
}

// end ends the use of the connection. It reports whether database/sql's own
// bookkeeping is certain to be in order.
func (c *conn) end() (tidy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tidy = !c.panicked && len(c.open) == 0
	for len(c.open) > 0 {
		_ = c.open[len(c.open)-1].closeLocked() // an error leaves a connection that is seen to be closed, or not idle
	}
	c.over.Store(true)
	return tidy
}

// use calls f, which uses the connection for a statement with ctx. f's own ctx
// does not end: when ctx does, the server is asked to cancel the statement. The
// watch is over when use returns, but if keep is true and f succeeds, it is
// returned, for its rows.
func (c *conn) use(ctx context.Context, keep bool, f func(context.Context) error) (w *interrupt.Watch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refuses(ctx); err != nil {
		return nil, err
	}
	ctx = nesting.Caller(ctx)
	w = interrupt.Start(ctx, c.session, c.policy)
	returned := false
	defer func() {
		if !returned || !keep || err != nil {
			w.Stop()
		}
		c.panicked = c.panicked || !returned
		c.note(err)
		err = lockerr.Because(ctx, err)
	}()
	endless := ctx
	if ctx.Done() != nil {
		endless = context.WithoutCancel(ctx)
	}
	err = f(endless)
	returned = true
	return w, err
}

// refuses returns why a statement with ctx may not run.
func (c *conn) refuses(ctx context.Context) error {
	switch {
	case c.over.Load():
		return sql.ErrTxDone
	case c.ended.Load():
		return lockerr.ErrTxEnded // rather than run it without the lock
	}
	return ctx.Err()
}

// note notes what a statement has done to the transaction. The caller has mu.
func (c *conn) note(err error) {
	if c.session.IsClosed() {
		return
	}
	switch c.session.TxStatus() {
	case 'I':
		c.ended.Store(true)
	case 'T':
		c.failure = nil // fn went back to a savepoint of its own
	case 'E':
		if c.failure == nil && lockerr.SQLState(err) != "" {
			c.failure = err
		}
	}
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
	_, err = c.use(ctx, false, func(ctx context.Context) (err error) {
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
	return c.query(ctx, func(ctx context.Context) (driver.Rows, error) {
		return queryer.QueryContext(ctx, query, args)
	})
}

func (c *conn) query(ctx context.Context, f func(context.Context) (driver.Rows, error)) (driver.Rows, error) {
	r := &rows{conn: c, ctx: ctx}
	w, err := c.use(ctx, true, func(ctx context.Context) (err error) {
		if r.Rows, err = f(ctx); err == nil {
			c.open = append(c.open, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	r.mind(w)
	return r, nil
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st := &stmt{conn: c}
	_, err := c.use(ctx, false, func(ctx context.Context) (err error) {
		if preparer, ok := c.Conn.(driver.ConnPrepareContext); ok {
			st.Stmt, err = preparer.PrepareContext(ctx, query)
		} else {
			st.Stmt, err = c.Prepare(query)
		}
		if err == nil {
			c.open = append(c.open, st)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// forget takes a closed one out of the list. The caller has mu.
func (c *conn) forget(closed closer) {
	for i, o := range c.open {
		if o == closed {
			c.open = append(c.open[:i], c.open[i+1:]...)
			return
		}
	}
}

// stmt is a statement that fn prepared on its transaction.
type stmt struct {
	driver.Stmt
	conn   *conn
	closed bool // guarded by conn.mu
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
	_, err = st.conn.use(ctx, false, func(ctx context.Context) (err error) {
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
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	return st.closeLocked()
}

func (st *stmt) closeLocked() error {
	if st.closed {
		return nil
	}
	st.closed = true
	st.conn.forget(st)
	return st.Stmt.Close()
}

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
