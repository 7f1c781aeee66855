package pgxtx

import (
	"reflect"
	"unsafe"

	"github.com/jackc/pgx/v5"
)

// LargeObjects is pgx.Tx's.
//
// pgx's type has one field, the pgx.Tx that its statements go through, and pgx
// alone can set it. Its own transactions cannot stand in: one is made by a message
// only, which fails while rows are open, and its statements cut the connection, and
// reach it when the call is over.
func (tx *Tx) LargeObjects() pgx.LargeObjects {
	if !oneField {
		panic("pgadvisory: LargeObjects of this version of pgx is not what it was")
	}
	var objects pgx.LargeObjects
	*(*pgx.Tx)(unsafe.Pointer(&objects)) = tx
	return objects
}

// oneField reports whether pgx.LargeObjects is a struct of a pgx.Tx.
var oneField = func() bool {
	t := reflect.TypeFor[pgx.LargeObjects]()
	return t.NumField() == 1 && t.Field(0).Type == reflect.TypeFor[pgx.Tx]()
}()
