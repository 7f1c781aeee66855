package sqltx_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/internal/sqltx"
)

// fakeConn is a driver's connection and its session. It counts what reaches it.
type fakeConn struct {
	mu       sync.Mutex
	uses     int
	open     int // rows and statements
	status   byte
	ends     bool // a statement ends the transaction
	endless  bool // the ctx of the last statement had no end
	fails    error
	slow     chan struct{} // a statement waits for it, if it is not nil
	entered  chan struct{}
	panicked bool
}

func (c *fakeConn) use(ctx context.Context) error {
	c.mu.Lock()
	c.uses++
	if c.ends {
		c.status = 'I'
	}
	c.endless = ctx.Done() == nil
	c.mu.Unlock()
	if c.slow != nil {
		close(c.entered)
		<-c.slow
	}
	if c.panicked {
		panic("in the driver")
	}
	return c.fails
}

func (c *fakeConn) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += n
}

func (c *fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("no context") }
func (c *fakeConn) Close() error                        { return nil }
func (c *fakeConn) Begin() (driver.Tx, error)           { return nil, errors.New("BEGIN was sent") }
func (c *fakeConn) ExecContext(ctx context.Context, _ string, _ []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), c.use(ctx)
}

func (c *fakeConn) QueryContext(ctx context.Context, _ string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.use(ctx); err != nil {
		return nil, err
	}
	c.add(1)
	return &fakeRows{c}, nil
}

func (c *fakeConn) PrepareContext(ctx context.Context, _ string) (driver.Stmt, error) {
	if err := c.use(ctx); err != nil {
		return nil, err
	}
	c.add(1)
	return &fakeStmt{c}, nil
}

type fakeRows struct{ conn *fakeConn }

func (r *fakeRows) Columns() []string         { return []string{"n"} }
func (r *fakeRows) Close() error              { r.conn.add(-1); return nil }
func (r *fakeRows) Next([]driver.Value) error { return nil }

type fakeStmt struct{ conn *fakeConn }

func (s *fakeStmt) Close() error                               { s.conn.add(-1); return nil }
func (s *fakeStmt) NumInput() int                              { return -1 }
func (s *fakeStmt) Exec([]driver.Value) (driver.Result, error) { return nil, io.ErrUnexpectedEOF }
func (s *fakeStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, io.ErrUnexpectedEOF }
func (s *fakeStmt) ExecContext(ctx context.Context, _ []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), s.conn.use(ctx)
}

// The session.
func (c *fakeConn) TxStatus() byte                      { return c.status }
func (c *fakeConn) IsClosed() bool                      { return false }
func (c *fakeConn) CancelRequest(context.Context) error { return nil }
func (c *fakeConn) Conn() net.Conn                      { client, _ := net.Pipe(); return client }

type session struct{ *fakeConn }

func (session) Close(context.Context) error { return nil }

func begin(t *testing.T, c *fakeConn) *sqltx.Tx {
	t.Helper()
	if c.status == 0 {
		c.status = 'T'
	}
	tx, err := sqltx.Begin(context.Background(), c, session{c}, interrupt.Policy{}, []hashkey.Key{hashkey.Name("k")})
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// Statements reach the connection, with a ctx that does not end, until End; what
// they leave open is closed then.
func TestEnd(t *testing.T) {
	c := new(fakeConn)
	tx := begin(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := tx.ExecContext(ctx, "a statement"); err != nil || !c.endless {
		t.Errorf("%v; with an end %t", err, !c.endless)
	}
	rows, err := tx.QueryContext(ctx, "a query")
	if err != nil {
		t.Fatal(err)
	}
	stmt, err := tx.PrepareContext(ctx, "a statement")
	if err != nil {
		t.Fatal(err)
	}
	if c.open != 2 {
		t.Fatalf("%d open, want 2", c.open)
	}
	tx.End()
	tx.End()
	if c.open != 0 {
		t.Errorf("%d are left open", c.open)
	}
	before := c.uses
	_, _ = tx.Exec("a statement")
	_, _ = stmt.Exec()
	if rows.Next() || rows.Err() == nil {
		t.Errorf("the error of rows that were not read to their end is %v", rows.Err())
	}
	_, _ = rows.Close(), stmt.Close()
	if c.uses != before || c.open != 0 {
		t.Errorf("after the end: %d uses, %d open", c.uses-before, c.open)
	}
	if err := tx.Guard().Ended(); err != nil {
		t.Errorf("End counts as fn's: %v", err)
	}
}

// fn cannot end the transaction, but it is known that it tried; a statement of
// its own can, and then no other reaches the connection.
func TestEnded(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*sql.Tx, *fakeConn) error
		want error
		says string
	}{
		"Commit":      {func(tx *sql.Tx, _ *fakeConn) error { return tx.Commit() }, lockerr.ErrTxEnded, "fn called tx.Commit ("},
		"Rollback":    {func(tx *sql.Tx, _ *fakeConn) error { return tx.Rollback() }, nil, "fn called tx.Rollback ("},
		"a statement": {func(tx *sql.Tx, c *fakeConn) error { c.ends = true; _, err := tx.Exec("commit"); return err }, nil, "a statement has committed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := new(fakeConn)
			tx := begin(t, c)
			err, ended := test.end(tx.Tx, c), tx.Guard().Ended()
			if !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, test.want)
			}
			for _, err := range []error{err, ended} { // fn's, and the call's
				if text := fmt.Sprint(err); err != test.want && !(strings.Contains(text, test.says) && strings.Contains(text, `"k"`)) {
					t.Errorf("got %v, which does not say %q and the key", err, test.says)
				}
			}
			if ended == nil {
				t.Error("not ended")
			}
			before := c.uses
			if _, err := tx.Exec("a statement"); err == nil || c.uses != before {
				t.Errorf("a statement after the end: %v", err)
			}
			tx.End()
		})
	}
}

// The first error that failed the transaction is kept.
func TestFirstError(t *testing.T) {
	c := &fakeConn{status: 'E'}
	tx := begin(t, c)
	for _, state := range []stateError{"23505", "25P02"} {
		c.fails = state
		_, _ = tx.Exec("a statement")
	}
	if err := tx.Guard().FirstError(); lockerr.SQLState(err) != "23505" {
		t.Errorf("got %v", err)
	}
	tx.End()
}

type stateError string

func (e stateError) Error() string    { return "SQLSTATE " + string(e) }
func (e stateError) SQLState() string { return string(e) }

// End waits for a statement that runs, and does not wait for locks of
// database/sql that a panic has left taken.
func TestEndWaits(t *testing.T) {
	c := &fakeConn{slow: make(chan struct{}), entered: make(chan struct{})}
	tx := begin(t, c)
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = tx.Exec("a statement")
	}()
	<-c.entered
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tx.End()
	}()
	select {
	case <-ended:
		t.Error("End did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	close(c.slow)
	<-over
	<-ended
}

func TestEndAfterAPanic(t *testing.T) {
	c := &fakeConn{panicked: true}
	tx := begin(t, c)
	func() {
		defer func() {
			if value := recover(); value != "in the driver" {
				t.Errorf("the panic is %v", value)
			}
		}()
		_, _ = tx.Query("a query") // leaves the transaction's lock taken
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tx.End()
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("End hangs")
	}
}
