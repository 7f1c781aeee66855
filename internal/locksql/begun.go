package locksql

import (
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Some libraries prepare every text that they send in a transaction. Such a text
// is one statement, and it should be the same for all keys: its key is a
// parameter, or, in a block, which takes none, comes from a setting.

// TryAllIn asks for keys in the caller's own transaction, without waiting, in one
// statement. If it refuses, some may be locked: the caller rolls back to a
// savepoint. Where the caller has begun the transaction for the library, another
// savepoint follows.
func TryAllIn(shared bool, keys []hashkey.Key, savepointFollows bool) Message {
	var m Message
	whens, _ := obstacles(false)
	condition, params := allOf(TryXactLock, shared, keys)
	return m.end(whens, condition, params, savepointFollows)
}

// Around TryAllIn.
var (
	BeforeTry = One(Statement{SQL: trySavepoint})
	UndoTry   = One(Statement{SQL: "rollback to " + trySavepoint})
	AfterTry  = One(Statement{SQL: tryRelease})
)

// WaitBegun is [TryAllIn] of one key, in a transaction that is the library's, that
// waits for at most limit, which is not 0. A wait that ends is a refusal, and leaves
// no line in the server's log.
func WaitBegun(shared bool, key hashkey.Key, limit time.Duration) Message {
	var m Message
	whens, noObstacle := obstacles(false)
	m.add("SELECT", setAside)
	class, object, pair := key.Pair()
	settings := []Param{{Number: Milliseconds(limit)}, {Number: key.Int64()}}
	set := ", pg_catalog.set_config('pgadvisory.key', $2, true)"
	args := "pg_catalog.current_setting('pgadvisory.key')::bigint"
	if pair {
		settings = []Param{settings[0], {Number: int64(class)}, {Number: int64(object)}}
		set = ", pg_catalog.set_config('pgadvisory.class', $2, true), pg_catalog.set_config('pgadvisory.object', $3, true)"
		args = "pg_catalog.current_setting('pgadvisory.class')::integer, pg_catalog.current_setting('pgadvisory.object')::integer"
	}
	m.addWith(settings, setQuietly+set)
	m.waitInBlock("perform "+function(XactLock, shared)+"("+args+"); ", noObstacle)
	m.add("SELECT", putBack)
	return m.end(whens, quietlyGranted, nil, true)
}
