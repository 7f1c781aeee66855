// Package sqltx makes a *sql.Tx of a transaction that is already open on a
// connection in our hands. Ending the transaction is left to the package's user,
// and when a statement's ctx ends, the server is asked to cancel the statement,
// where database/sql and the driver alone would cut the connection.
//
// A *sql.Tx can only be made by a BeginTx that runs on some *sql.DB. So there is
// one for the whole process, made on first use. Its connections are shells:
// they become the connection that they find in BeginTx's ctx. Their BeginTx sends
// nothing, and their Close closes nothing. That database keeps up to 64 shells,
// empty, since database/sql spends more on a new one than on all the rest. It
// runs one goroutine, as every database does.
package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/interrupt"
	"github.com/pgadvisory/pgadvisory/internal/txguard"
)

// Tx is a *sql.Tx, and what becomes of it.
type Tx struct {
	*sql.Tx
	conn    conn
	carrier carrier
}

// Begin returns a Tx for the transaction that is open on session, and holds keys, and
// for an fn with the ctx fnCtx. Statements go to the connection as it came from the pool, with the instruments
// that it may be wrapped in; policy is theirs.
func Begin(fnCtx context.Context, pooled driver.Conn, session txguard.Session, policy interrupt.Policy, keys []hashkey.Key) (*Tx, error) {
	t := &Tx{conn: conn{Conn: pooled, Guard: txguard.Make(fnCtx, session, policy, keys, sql.ErrTxDone)}}
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
	if t.conn.Over() {
		return
	}
	if tidy := t.conn.End(); tidy {
		_ = t.Rollback() // sends nothing
	} else {
		go t.Rollback()
	}
}

// Guard returns what stands between fn and the connection.
func (t *Tx) Guard() *txguard.Guard { return &t.conn.Guard }

// database returns the database that finds its connections in ctx.
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
