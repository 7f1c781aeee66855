package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
)

// A *sql.Tx can only be made by a BeginTx that runs on some *sql.DB. For a
// transaction that is already open on a driver connection, that is a database
// of our own, whose connections are shells: they become the connection that
// they find in ctx, an adopted, whose BeginTx sends nothing and whose Close
// closes nothing.
//
// It is one for the whole process, made on first use. It keeps a few shells,
// empty, since database/sql spends more on a new one than all the rest of this
// costs; and it runs one goroutine, as for any database.
var adopter = sync.OnceValue(func() *sql.DB {
	const spareShells = 64
	db := sql.OpenDB(connector{})
	db.SetMaxIdleConns(spareShells)
	return db
})

// begin makes t a *sql.Tx, for an open transaction that it is to adopt.
func (t *transaction) begin() {
	t.adopted.adoption = adoption{context.Background(), &t.adopted}
	tx, err := adopter().BeginTx(&t.adopted.adoption, nil)
	if err != nil {
		panic("xactlock: " + err.Error()) // the adopter has no limit, no end and no server
	}
	t.Tx = tx
}

// adoption is the context that carries an adopted to the connector. It never
// ends, because database/sql would end the transaction with it, under a
// running fn.
type adoption struct {
	context.Context
	adopted *adopted
}

type adoptedKey struct{}

func (a *adoption) Value(key any) any {
	if key == (adoptedKey{}) {
		return a.adopted
	}
	return nil
}

type connector struct{}

func (connector) Connect(ctx context.Context) (driver.Conn, error) {
	return &shell{adoptedIn(ctx)}, nil
}

func adoptedIn(ctx context.Context) *adopted { return ctx.Value(adoptedKey{}).(*adopted) }

// Driver is for sql.DB.Driver, which nobody can call on this one.
func (connector) Driver() driver.Driver { return nil }

// shell is a connection of the adopter: one adopted after the other.
type shell struct{ *adopted }

// ResetSession is what database/sql calls before it uses a shell again.
func (s *shell) ResetSession(ctx context.Context) error {
	s.adopted = adoptedIn(ctx)
	return nil
}

// IsValid is what database/sql calls when a transaction has given a shell back.
func (s *shell) IsValid() bool {
	s.adopted = nil
	return true
}
