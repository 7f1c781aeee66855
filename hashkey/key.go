package hashkey

import (
	"cmp"
	"encoding/binary"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Key names one advisory lock: a number in one of PostgreSQL's two key spaces,
// and the name it came from, where it came from one.
//
// Keys are comparable with ==, which tells keys of different names apart even
// where their numbers collide; to ask whether two keys are one lock, use
// [Compare]. The zero Key is the bigint 0, a lock like any other.
type Key struct {
	id    int64
	name  string
	space string
	kind  kind
}

// kind says which key space the number is in and whether a name is known; the
// empty name is a name, so its length cannot tell.
type kind uint8

const (
	bigint kind = iota
	pair
	named
	namedPair
	namespaced
)

func (k kind) isPair() bool { return k == pair || k == namedPair }

// Name returns the key of name: the bigint int64(xxHash64(name)), seed 0, over
// the bytes of name as they are. It allocates nothing and never fails.
func Name(name string) Key {
	return Key{id: int64(xxhash.Sum64String(name)), name: name, kind: named}
}

// Int64 returns the key of a bigint of the caller's own choice, as
// pg_advisory_lock(bigint) takes it.
func Int64(id int64) Key {
	return Key{id: id}
}

// Pair returns a key of PostgreSQL's other key space, as
// pg_advisory_lock(integer, integer) takes it. It never conflicts with a
// bigint, whatever the numbers: see Advisory Lock Functions in the PostgreSQL
// manual.
func Pair(class, object int32) Key {
	return Key{id: int64(class)<<32 | int64(uint32(object)), kind: pair}
}

// Named returns k under the name that a program has for it: the same lock, to
// the server and to [Compare], which messages call by name. It is for numbers
// that another hash made from a name.
func (k Key) Named(name string) Key {
	label := named
	if k.kind.isPair() {
		label = namedPair
	}
	return Key{id: k.id, name: name, kind: label}
}

// Slot returns the key of the i-th slot of k, for a resource that a number of
// holders may have at once. Slot(0) is k. For any other i it is, in k's
// own key space, the xxHash64 (seed 0) of k.Int64() and i, each as eight bytes,
// little-endian. Its name is that of k, or k's number, with "#" and i.
func (k Key) Slot(i int) Key {
	if i == 0 {
		return k
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], uint64(k.id))
	binary.LittleEndian.PutUint64(b[8:], uint64(i))
	name, label := k.name, k.kind
	switch k.kind {
	case bigint:
		name, label = k.number(), named
	case pair:
		name, label = k.number(), namedPair
	}
	return Key{id: int64(xxhash.Sum64(b[:])), name: name + "#" + strconv.Itoa(i), space: k.space, kind: label}
}

// Int64 returns the number that the server locks. For a [Pair] it is
// class<<32 | uint32(object), the form in which pg_locks shows both.
func (k Key) Int64() int64 { return k.id }

// Pair returns the two numbers of a key made by [Pair], and whether it is one.
// For any other key they are 0, 0 and false.
func (k Key) Pair() (class, object int32, ok bool) {
	if !k.kind.isPair() {
		return 0, 0, false
	}
	return int32(k.id >> 32), int32(k.id), true
}

// String returns the key for people: the name it came from, quoted, where
// known, and the number the server locks. The form may change; the number may
// not.
//
//	Name("nightly")                "nightly" (-5587572470608224788)
//	Namespace("orders").ID(42)     "orders/42" (6696531377227644590)
//	Int64(7)                       7
//	Pair(1, -2)                    (1, -2)
//	Pair(1, -2).Named("nightly")   "nightly" (1, -2)
func (k Key) String() string {
	switch k.kind {
	case pair:
		return "(" + k.number() + ")"
	case named, namedPair:
		return strconv.Quote(k.name) + " (" + k.number() + ")"
	case namespaced:
		return strconv.Quote(k.space+"/"+k.name) + " (" + k.number() + ")"
	default:
		return k.number()
	}
}

// number writes what the server locks.
func (k Key) number() string {
	if class, object, ok := k.Pair(); ok {
		return strconv.Itoa(int(class)) + ", " + strconv.Itoa(int(object))
	}
	return strconv.FormatInt(k.id, 10)
}

// Name returns what was hashed, without the namespace: the name that was given
// to [Name] or [Namespace.Name], or the decimal digits of the number that was
// given to [Namespace.ID]. For a key relabelled by [Key.Named] it is the name
// given there. For a plain number or pair it is empty, and so it is for a key of
// the empty name.
func (k Key) Name() string { return k.name }

// Namespace returns the namespace that k was made in, or "" where there is
// none: [Name], [Int64], [Pair] and [Key.Named] make keys without one. Namespaces
// are few where names are many, so that it is fit to label a metric.
func (k Key) Namespace() string { return k.space }

// MarshalText returns the text of [Key.String], so that a key is a string in
// JSON, a member's name where it is the key of a map, and the same in the
// output of log/slog. It is for people, its form may change, and no function
// reads it back: a program that stores a key stores its name or its number. The
// error is always nil.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Compare orders keys by what the server locks: bigints before pairs, then by
// number. It returns 0 exactly when a and b are one lock; names do not count.
// Programs that take several keys one by one avoid deadlocks by taking them in
// this order.
func Compare(a, b Key) int {
	if aPair, bPair := a.kind.isPair(), b.kind.isPair(); aPair != bPair {
		if bPair {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.id, b.id)
}
