package locksql

import (
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// WaitBefore returns the message that waits for the lock of key, for at most
// limit, which is not 0, and then sends one select, in one transaction. The
// select may take the session's lock, which it gets at once where Waited is true:
// the transaction has the lock until the end of the message. Nothing is locked
// unless condition is true. A wait that ends is no error, so that the server logs
// nothing.
//
// A session's lock whose wait ended in an error can be held all the same. So it
// is the transaction's lock that is waited for, which a rollback frees in any
// case.
func WaitBefore(condition string, shared bool, key hashkey.Key, limit time.Duration, query string) Message {
	var m Message
	m.Statements = append(m.Statements, beginReadCommitted)
	m.limit(0)
	m.quietly(shared, []hashkey.Key{key}, limit, condition)
	m = m.Select(query)
	m.add("COMMIT", "commit")
	return m
}

// Waited is true in the select of WaitBefore if the lock was granted.
const Waited = quietlyGranted

// Forsake frees the session's lock of key, if a message that failed has left it,
// and ends the transaction that may be open.
func Forsake(shared bool, keys ...hashkey.Key) Message {
	m := One(Rollback)
	for _, key := range keys {
		m.add("SELECT", "select case when "+Held(key)+" then "+Call(Unlock, shared, key)+" end")
	}
	return m
}
