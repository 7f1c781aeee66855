// Package locksql holds every SQL text that locks, waits, hands over and frees.
//
// Numbers are written into the text, or are parameters of a text that is the
// same for all keys, so that no prepared statement is left behind for every
// key. Functions and operators are written with their schema, or not used at
// all, so that no search_path can put another in their place. A lock function
// is only ever called in a select list, and without a FROM, or with one that
// has one row and is fenced off by OFFSET 0: in a WHERE or a join the planner
// may call it more often than once.
//
// testdata/messages.golden shows each text.
package locksql

import (
	"strconv"
	"strings"
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

// All returns "f(key1) and f(key2) …", which stops at the first refusal.
func All(f Func, shared bool, keys []hashkey.Key) string {
	var b []byte
	for i, key := range keys {
		if i > 0 {
			b = append(b, " and "...)
		}
		b = appendCall(b, f, shared, key)
	}
	return string(b)
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

// appendNumber quotes n, as Statement.Text does.
func appendNumber(b []byte, n int64, typ string) []byte {
	b = append(b, '\'')
	b = strconv.AppendInt(b, n, 10)
	b = append(b, "'::"...)
	return append(b, typ...)
}

// params returns key as parameters.
func params(key hashkey.Key) []Param {
	if class, object, ok := key.Pair(); ok {
		return []Param{{int64(class), "integer"}, {int64(object), "integer"}}
	}
	return []Param{{key.Int64(), "bigint"}}
}

// Held returns an expression that is true if this session holds key, in
// whatever mode. pg_locks shows a bigint as classid and objid, high half first,
// with objsubid 1, and a pair as the same two with objsubid 2.
func Held(key hashkey.Key) string {
	return shown(heldHere, key)
}

// wanted returns an expression that is true if any session waits for key.
func wanted(key hashkey.Key) string {
	return shown("not granted and "+advisory+" and database"+equal+"(select oid from pg_catalog.pg_database where datname"+
		equal+"pg_catalog.current_database())", key)
}

const (
	equal    = " operator(pg_catalog.=) "
	advisory = "locktype" + equal + "'advisory'"

	// heldHere is true of the advisory locks in pg_locks that this session holds.
	heldHere = "granted and " + advisory + " and pid" + equal + "pg_catalog.pg_backend_pid()"
)

// subID is what pg_locks says of the kind of key.
func subID(key hashkey.Key) string {
	if _, _, ok := key.Pair(); ok {
		return "2"
	}
	return "1"
}

// shown returns an expression that is true if pg_locks shows such a lock of key.
func shown(such string, key hashkey.Key) string {
	return "exists (select from pg_catalog.pg_locks where " + such + " and objsubid" + equal + subID(key) +
		" and classid" + equal + oid(uint32(key.Int64()>>32)) +
		" and objid" + equal + oid(uint32(key.Int64())) + ")"
}

// heldAll returns an expression that is true if this session holds all keys.
func heldAll(keys []hashkey.Key) string {
	var all strings.Builder
	for i, key := range keys {
		if i > 0 {
			all.WriteString(" and ")
		}
		all.WriteString(Held(key))
	}
	return all.String()
}

// oid returns half of a key as pg_locks shows it.
func oid(n uint32) string { return "'" + strconv.FormatUint(uint64(n), 10) + "'::pg_catalog.oid" }

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

func milliseconds(d time.Duration) string { return strconv.FormatInt(Milliseconds(d), 10) }

// Forsake frees the session's lock of key, if a message that failed has left it,
// and ends the transaction that may be open.
func Forsake(shared bool, keys ...hashkey.Key) Message {
	m := One(Rollback)
	for _, key := range keys {
		m.unlockHeld(shared, key)
	}
	return m
}

func (m *Message) unlockHeld(shared bool, key hashkey.Key) {
	m.add("SELECT", "select case when "+Held(key)+" then "+Call(Unlock, shared, key)+" end")
}

// WithoutRollback returns m, which begins with a rollback, without it: the server
// warns of one where no transaction is open.
func (m Message) WithoutRollback() Message {
	m.Statements = m.Statements[1:]
	return m
}

// allOf is [All] with keys as parameters.
func allOf(f Func, shared bool, keys []hashkey.Key) (expression string, params []Param) {
	calls := make([]string, len(keys))
	next := func(n int64, typ string) string {
		params = append(params, Param{Number: n})
		return "$" + strconv.Itoa(len(params)) + "::" + typ
	}
	for i, key := range keys {
		if class, object, pair := key.Pair(); pair {
			calls[i] = function(f, shared) + "(" + next(int64(class), "integer") + ", " + next(int64(object), "integer") + ")"
		} else {
			calls[i] = function(f, shared) + "(" + next(key.Int64(), "bigint") + ")"
		}
	}
	return strings.Join(calls, " and "), params
}

// function returns the name of f with its schema.
func function(f Func, shared bool) string {
	name := "pg_catalog." + string(f)
	if shared {
		name += "_shared"
	}
	return name
}
