package hashkey

import (
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Namespace keeps the names of one kind of thing apart from those of every
// other: Namespace("orders").ID(42) and Namespace("users").ID(42) are
// different locks.
//
//	const orders = hashkey.Namespace("orders")
//
//	err := locker.WithTx(ctx, orders.ID(42), fn)
//
// The namespace seeds the hash, rather than being pasted before the name, so
// that no choice of separator can make two namespaces overlap.
type Namespace string

// Name returns the key of name in ns: the bigint xxHash64(name) with the seed
// xxHash64(ns). It never fails.
func (ns Namespace) Name(name string) Key {
	var d xxhash.Digest
	d.ResetWithSeed(xxhash.Sum64String(string(ns)))
	_, _ = d.WriteString(name) // a hash's Write never fails
	return Key{id: int64(d.Sum64()), name: name, space: string(ns), kind: namespaced}
}

// ID returns the key of a number in ns, such as a row's primary key. It is
// ns.Name of the number's decimal digits.
func (ns Namespace) ID(id int64) Key {
	return ns.Name(strconv.FormatInt(id, 10))
}
