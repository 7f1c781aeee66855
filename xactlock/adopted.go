package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// adopted is a driver connection with an open transaction that somebody else
// will end: what fn's *sql.Tx runs on. Statements go to the connection as it
// came from the pool, with whatever instruments it is wrapped in.
type adopted struct {
	driver.Conn
	pg       *pgconn.PgConn
	watch    *interrupt.Watch // of the session
	adoption adoption

	ended atomic.Bool  // fn ended the transaction, or tried to
	uses  atomic.Int32 // that are not over; less than 0 once it is retired
}

// adopt makes s what a runs on.
func (a *adopted) adopt(s *session) {
	a.Conn, a.pg, a.watch = s.driver, s.pg, &s.watch
}

// retire keeps everybody off the connection from now on, and reports whether it
// could: it cannot while a statement runs, or has left something open.
func (a *adopted) retire() bool { return a.uses.CompareAndSwap(0, math.MinInt32/2) }

func (a *adopted) isRetired() bool { return a.uses.Load() < 0 }

// use reports whether a may be used. If so, it cannot be retired until unuse.
func (a *adopted) use() bool {
	if a.uses.Add(1) > 0 {
		return true
	}
	a.unuse()
	return false
}

func (a *adopted) unuse() { a.uses.Add(-1) }

// keep keeps a from ever being retired, for the sake of something that only
// the end of the *sql.Tx takes away.
func (a *adopted) keep() { a.uses.Add(1) }

// Close closes nothing: the connection is the pool's.
func (a *adopted) Close() error { return nil }

// BeginTx begins nothing: the transaction is open.
func (a *adopted) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return a, nil }

// Commit is fn's attempt to commit, and refused.
func (a *adopted) Commit() error {
	a.ended.Store(true)
	if a.isRetired() {
		return sql.ErrTxDone
	}
	return ErrTxEnded
}

// Rollback is fn's, or WithTx's way to close the *sql.Tx. The transaction and
// the lock stay until fn has returned.
func (a *adopted) Rollback() error {
	a.ended.Store(true)
	if a.isRetired() {
		return sql.ErrTxDone
	}
	return nil
}

// CheckNamedValue leaves arguments to the connection's own checker, or where
// it has none to database/sql.
func (a *adopted) CheckNamedValue(v *driver.NamedValue) error {
	if !a.use() {
		return sql.ErrTxDone
	}
	defer a.unuse()
	if checker, ok := a.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (a *adopted) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	conn, ok := a.Conn.(driver.ExecerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	s, err := a.start(ctx)
	if err != nil {
		return nil, err
	}
	result, err := conn.ExecContext(s.ctx, query, args)
	return result, s.over(err)
}

func (a *adopted) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	conn, ok := a.Conn.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	s, err := a.start(ctx)
	if err != nil {
		return nil, err
	}
	return s.rows(conn.QueryContext(s.ctx, query, args))
}

func (a *adopted) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := a.start(ctx)
	if err != nil {
		return nil, err
	}
	var stmt driver.Stmt
	if conn, ok := a.Conn.(driver.ConnPrepareContext); ok {
		stmt, err = conn.PrepareContext(s.ctx, query)
	} else {
		stmt, err = a.Prepare(query)
	}
	a.keep() // it is closed with the *sql.Tx
	if err = s.over(err); err != nil {
		return nil, err
	}
	return &adoptedStmt{Stmt: stmt, adopted: a}, nil
}

// adoptedStmt is a statement that fn prepared on its transaction.
type adoptedStmt struct {
	driver.Stmt
	adopted *adopted
}

func (st *adoptedStmt) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := st.Stmt.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return st.adopted.CheckNamedValue(v)
}

func (st *adoptedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	stmt, ok := st.Stmt.(driver.StmtExecContext)
	if !ok {
		return nil, errors.New("xactlock: the driver's statements take no context; use Options.Plain")
	}
	s, err := st.adopted.start(ctx)
	if err != nil {
		return nil, err
	}
	result, err := stmt.ExecContext(s.ctx, args)
	return result, s.over(err)
}

func (st *adoptedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	stmt, ok := st.Stmt.(driver.StmtQueryContext)
	if !ok {
		return nil, errors.New("xactlock: the driver's statements take no context; use Options.Plain")
	}
	s, err := st.adopted.start(ctx)
	if err != nil {
		return nil, err
	}
	return s.rows(stmt.QueryContext(s.ctx, args))
}

// statement is one that runs for fn. When fn's ctx for it ends, the server is
// asked to cancel it; the connection stays, and with it, thanks to the
// savepoint, the lock.
type statement struct {
	adopted *adopted
	ctx     context.Context // what the driver gets: without an end
	caller  context.Context
	watch   *interrupt.Watch
}

func (a *adopted) start(ctx context.Context) (*statement, error) {
	if a.ended.Load() {
		return nil, ErrTxEnded // rather than run it without the lock
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !a.use() {
		return nil, sql.ErrTxDone
	}
	s := &statement{adopted: a, ctx: ctx, caller: ctx, watch: a.watch}
	if !s.watch.Keeps(ctx) {
		s.watch = new(interrupt.Watch)
	}
	s.watch.Begin(ctx, a.pg, working)
	if ctx.Done() != nil {
		s.ctx = context.WithoutCancel(ctx)
	}
	return s, nil
}

// over ends the interrupt, and notices where the statement ended the transaction.
func (s *statement) over(err error) error {
	s.watch.End()
	if !s.adopted.pg.IsClosed() && s.adopted.pg.TxStatus() == 'I' {
		s.adopted.ended.Store(true)
	}
	s.adopted.unuse()
	return s.because(err)
}

// because returns err, with the end of fn's ctx joined where that is why.
func (s *statement) because(err error) error {
	if err != nil && s.caller.Err() != nil {
		return fmt.Errorf("%w (%w)", s.caller.Err(), err)
	}
	return err
}

// rows passes on what a query returned. The statement is over when its rows
// are closed, as far as they can be wrapped without hiding what they can do.
func (s *statement) rows(rows driver.Rows, err error) (driver.Rows, error) {
	if r, ok := rows.(*stdlib.Rows); ok && err == nil {
		return &adoptedRows{Rows: r, statement: s}, nil
	}
	if err == nil {
		s.adopted.keep() // they are closed with the *sql.Tx at the latest
	}
	return rows, s.over(err)
}

type adoptedRows struct {
	*stdlib.Rows
	statement *statement
}

// Next is driver.Rows's; an error in the middle is the statement's.
func (r *adoptedRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == io.EOF {
		return err
	}
	return r.statement.because(err)
}

// Close is driver.Rows's. database/sql calls it once, however the rows end.
func (r *adoptedRows) Close() error {
	return r.statement.over(r.Rows.Close())
}
