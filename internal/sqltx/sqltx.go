// Package sqltx makes a *sql.Tx of a transaction that is already open on a
// connection in our hands. Ending the transaction is left to the package's user,
// and a statement whose ctx ends is cancelled on the server, where database/sql
// and the driver alone would cut the connection.
//
// A *sql.Tx can only be made by a BeginTx that runs on some *sql.DB. So there is
// one for the whole process, made on first use, whose connections are shells:
// they become the connection that they find in BeginTx's ctx. Their BeginTx sends
// nothing, and their Close closes nothing. That database keeps a few shells,
// empty, since database/sql spends more on a new one than on all the rest. It
// runs one goroutine, as every database does.
package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// Tx is a *sql.Tx, and what becomes of it.
type Tx struct {
	*sql.Tx
	conn    conn
	carrier carrier
}

// Begin returns a Tx for the transaction that is open on session. Statements go
// to the connection as it came from the pool, with the instruments that it may
// be wrapped in; policy is theirs.
func Begin(pooled driver.Conn, session Session, policy interrupt.Policy) (*Tx, error) {
	t := &Tx{conn: conn{Conn: pooled, session: session, policy: policy}}
	t.carrier = carrier{context.Background(), &t.conn}
	var err error
	if t.Tx, err = database().BeginTx(&t.carrier, nil); err != nil {
		return nil, err
	}
	return t, nil
}

// End makes the Tx, its statements and its rows unusable, and waits for what
// runs on them. When it returns, nothing of the Tx can reach the connection. The
// transaction is still open, if fn has not ended it.
//
// database/sql may be left with a lock of its own taken, by a panic inside one
// of its methods: its own Rollback would then wait for ever. So it is not waited
// for where that can be. End does nothing the second time.
func (t *Tx) End() {
	if t.conn.over.Load() {
		return
	}
	if tidy := t.conn.end(); tidy {
		_ = t.Rollback() // sends nothing
	} else {
		go t.Rollback()
	}
}

// Lost reports whether the session is gone, as far as a statement has found out,
// or, where none runs, read does.
func (t *Tx) Lost(read func() error) bool {
	c := &t.conn
	if !c.mu.TryLock() {
		return false // a statement runs, and will fail
	}
	defer c.mu.Unlock()
	switch {
	case c.over.Load():
		return false
	case c.session.IsClosed():
		return true
	}
	return len(c.open) == 0 && read() != nil
}

// Ended reports whether fn has ended the transaction, or tried to: by Commit or
// Rollback, or by a statement.
func (t *Tx) Ended() bool { return t.conn.ended.Load() }

// FirstError returns the error of the statement that made the transaction fail,
// if it is failed and that was a statement of fn.
func (t *Tx) FirstError() error {
	t.conn.mu.Lock()
	defer t.conn.mu.Unlock()
	return t.conn.failure
}

// database returns the database whose connections are carried by ctx.
var database = sync.OnceValue(func() *sql.DB {
	const spareShells = 64
	db := sql.OpenDB(connector{})
	db.SetMaxIdleConns(spareShells)
	return db
})

// carrier is the context that carries a connection to the connector. It never
// ends, because database/sql would end the transaction with it, under a running
// fn.
type carrier struct {
	context.Context
	conn *conn
}

type connector struct{}

func (connector) Connect(ctx context.Context) (driver.Conn, error) {
	return &shell{ctx.(*carrier).conn}, nil
}

// Driver is for sql.DB.Driver, which no program can call on this database.
func (connector) Driver() driver.Driver { return nil }

// shell is a connection of that database: one conn after the other.
type shell struct{ *conn }

// ResetSession is what database/sql calls before it uses a shell again.
func (s *shell) ResetSession(ctx context.Context) error {
	s.conn = ctx.(*carrier).conn
	return nil
}

// IsValid is what database/sql calls when a transaction has given a shell back.
func (s *shell) IsValid() bool {
	s.conn = nil
	return true
}
