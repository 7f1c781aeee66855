package xactlock

import (
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// This file writes the messages that begin a transaction and take its locks.
//
// READ COMMITTED takes a snapshot for each statement, so the lock can simply
// be asked for in the transaction: whatever fn reads, it reads afterwards.
//
// REPEATABLE READ and SERIALIZABLE take one snapshot, in their first
// statement, and a statement that waits for a lock takes it before the wait:
// fn would then read what was there before the previous holder committed. So
// the lock is first taken for the session, in a transaction of its own, and
// then handed over to the transaction that fn gets, on the same backend and
// without a gap. All of it is one message, which even a pooler in transaction
// mode keeps on one server connection; COMMIT AND CHAIN leaves no moment
// between the two transactions in which the session is idle with the lock, so
// that a statement cancelled there cannot set the pooler free to give the
// session to somebody else.
//
// The message ends in a savepoint. A statement that fails aborts the
// transaction, and PostgreSQL frees a transaction's locks at its abort, not at
// the ROLLBACK that follows: without the savepoint fn would go on, handling
// the error, while the next holder is already inside. With it only what came
// after the grant is aborted. COMMIT comes after a RELEASE of the savepoint,
// which fails if fn has ended this transaction and begun another.
const (
	savepoint = "savepoint pgadvisory"
	release   = "release savepoint pgadvisory"
)

// tryMessage begins a transaction and asks for keys without waiting. The lock
// is granted if every boolean in the answer is true.
func (l *Locker) tryMessage(keys []hashkey.Key) string {
	m := locksql.Sized(256)
	if l.opts.handsOver() {
		m.Begin("read committed", false)
		m.All(locksql.TryLock, l.opts.Shared, keys)
	} else {
		m.Begin(l.opts.level(), l.opts.ReadOnly)
		m.All(locksql.TryXactLock, l.opts.Shared, keys)
	}
	l.afterGrant(&m, keys)
	return m.String()
}

// waitMessage begins a transaction, in place of one that may be open from a try
// that was refused, and waits for keys, for at most limit where that is not 0.
// The limits of the role and the database are set aside for the wait.
func (l *Locker) waitMessage(keys []hashkey.Key, limit time.Duration, open bool) string {
	m := locksql.Sized(2048)
	if open {
		m.Statement("rollback")
	}
	if l.opts.handsOver() {
		m.Begin("read committed", false)
		m.Limit(limit)
		m.Each(locksql.Lock, l.opts.Shared, keys)
	} else {
		m.Begin(l.opts.level(), l.opts.ReadOnly)
		m.SetAside(limit)
		m.Each(locksql.XactLock, l.opts.Shared, keys)
		m.PutBack()
	}
	l.afterGrant(&m, keys)
	return m.String()
}

// afterGrant adds what follows the grant.
func (l *Locker) afterGrant(m *locksql.Message, keys []hashkey.Key) {
	if l.opts.handsOver() {
		m.Statement("commit and chain")
		mode := "set transaction isolation level " + l.opts.level()
		if l.opts.ReadOnly {
			mode += ", read only"
		}
		m.Statement(mode)
		m.Handover(l.opts.Shared, keys)
	}
	if l.opts.MaxHold > 0 {
		m.MaxHold(l.opts.MaxHold)
	}
	m.Statement(savepoint)
}

// abandonMessage ends what an opening message that failed or was refused has
// left. A session lock whose wait ended in an error can be held all the same,
// so it is handed over, if it is there, to a transaction that ends at once.
func (l *Locker) abandonMessage(keys []hashkey.Key) string {
	if !l.opts.handsOver() {
		return "rollback"
	}
	m := locksql.Sized(512)
	m.Statement("rollback")
	m.Statement("begin")
	m.Handover(l.opts.Shared, keys)
	m.Statement("rollback")
	return m.String()
}
