// Package locksql writes the SQL of advisory locks.
//
// Numbers are written into the text, so that a message needs no parameters:
// drivers then use the simple query protocol, which takes several statements
// in one message and leaves no prepared statement behind for every key.
// Functions and operators are written with their schema, or not used at all,
// so that no search_path can put another in their place. A lock function is
// only ever called in a select list, and without a FROM, or with one that has
// one row and is fenced off by OFFSET 0: in a WHERE or a join the planner may
// call it more often than once.
package locksql

import (
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Func is an advisory lock function, without its schema and "_shared".
type Func string

// The advisory lock functions of the PostgreSQL manual.
const (
	XactLock    Func = "pg_advisory_xact_lock"
	TryXactLock Func = "pg_try_advisory_xact_lock"
	Lock        Func = "pg_advisory_lock"
	TryLock     Func = "pg_try_advisory_lock"
	Unlock      Func = "pg_advisory_unlock"
)

// Call returns a call of f for key.
func Call(f Func, shared bool, key hashkey.Key) string {
	return string(appendCall(nil, f, shared, key))
}

// TryXactLockPrepared returns "select pg_try_advisory_xact_lock($1)", or what
// else asks for keys of this kind, to be prepared once for all of them. It is
// short enough to be the name of a prepared statement (63 bytes, NAMEDATALEN).
func TryXactLockPrepared(shared bool, key hashkey.Key) string {
	_, _, pair := key.Pair()
	switch {
	case pair && shared:
		return "select pg_catalog.pg_try_advisory_xact_lock_shared($1, $2)"
	case pair:
		return "select pg_catalog.pg_try_advisory_xact_lock($1, $2)"
	case shared:
		return "select pg_catalog.pg_try_advisory_xact_lock_shared($1)"
	}
	return "select pg_catalog.pg_try_advisory_xact_lock($1)"
}

// All returns "f(key1) and f(key2) …", which stops at the first refusal.
func All(f Func, shared bool, keys []hashkey.Key) string {
	return string(appendAll(nil, f, shared, keys))
}

func appendAll(b []byte, f Func, shared bool, keys []hashkey.Key) []byte {
	for i, key := range keys {
		if i > 0 {
			b = append(b, " and "...)
		}
		b = appendCall(b, f, shared, key)
	}
	return b
}

func appendCall(b []byte, f Func, shared bool, key hashkey.Key) []byte {
	b = append(b, "pg_catalog."...)
	b = append(b, f...)
	if shared {
		b = append(b, "_shared"...)
	}
	b = append(b, '(')
	if class, object, ok := key.Pair(); ok {
		b = appendNumber(b, int64(class), "integer")
		b = append(b, ", "...)
		b = appendNumber(b, int64(object), "integer")
	} else {
		b = appendNumber(b, key.Int64(), "bigint")
	}
	return append(b, ')')
}

// appendNumber quotes n, because a bare -9223372036854775808 is the numeric
// 9223372036854775808 with a minus before it, and no function takes that.
func appendNumber(b []byte, n int64, typ string) []byte {
	b = append(b, '\'')
	b = strconv.AppendInt(b, n, 10)
	b = append(b, "'::"...)
	return append(b, typ...)
}

// appendOID appends half of a key as pg_locks shows it.
func appendOID(b []byte, n uint32) []byte {
	b = append(b, '\'')
	b = strconv.AppendUint(b, uint64(n), 10)
	return append(b, "'::pg_catalog.oid"...)
}

// Milliseconds returns d for a server setting: rounded up, because 0 would
// turn the setting off, and at most what a setting can hold (24 days).
func Milliseconds(d time.Duration) int64 {
	const most = 1<<31 - 1
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	return min(ms, most)
}
