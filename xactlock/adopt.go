package xactlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
)

// A *sql.Tx can only be made by a BeginTx that runs on some *sql.DB. For a
// transaction that is already open on a driver connection, that is a database
// of our own: its connector hands out the connection it finds in ctx, wrapped
// in an adopted, whose BeginTx sends nothing and whose Close closes nothing.
//
// It is one for the whole process, made on first use, and keeps no connection.
// database/sql runs one goroutine for it, as for any database.
var adopter = sync.OnceValue(func() *sql.DB {
	db := sql.OpenDB(connector{})
	db.SetMaxIdleConns(-1)
	return db
})

// adopt returns a as a *sql.Tx.
func adopt(a *adopted) (*sql.Tx, error) {
	a.adoption = adoption{context.Background(), a}
	return adopter().BeginTx(&a.adoption, nil)
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
	return ctx.Value(adoptedKey{}).(*adopted), nil
}

// Driver is for sql.DB.Driver, which nobody can call on this one.
func (connector) Driver() driver.Driver { return nil }
