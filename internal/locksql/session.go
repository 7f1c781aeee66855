package locksql

import (
	"strconv"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// SessionWait is a wait for the lock of a session.
type SessionWait struct {
	Obstacles string // "when condition then number …": why nothing is to be locked or changed, a negative number
	Shared    bool
	Keys      []hashkey.Key // the session is to get one of them
	One       int           // the index of the one to wait for
	Limit     time.Duration // not 0

	Before   string // a select that is sent before the wait
	Settings string // "expressions from …", which give the session its settings if it gets a lock
}

// Message returns the message, which is one transaction. The row of its last
// statement but one is the index of the key that the session has got, -1 where it
// has got none, or the number of an obstacle. A wait that ends is no
// error, so that the server logs nothing; it is then that the other keys are asked
// for, without waiting. If none is granted, nothing has changed on the session.
//
// After a wait that ended in an error, a session's lock can be held all the same. So it
// is the transaction's lock that is waited for, which a rollback frees in any
// case. The session gets its lock at once then, in the second step of a loop: before
// a step the server looks whether the wait has ended just as the lock was granted.
// Within one step it would look when both are granted, and the end of the wait would
// leave the session its lock. Both steps are one expression, which is planned before
// the wait.
//
// All that is to be set is set before the wait, and goes with the subtransaction if
// the wait ends: what is done after the grant keeps the caller waiting.
func (w *SessionWait) Message() Message {
	var m Message
	m.Statements = append(m.Statements, beginReadCommitted)
	m.add("SELECT", "select "+withLockTimeout(milliseconds(w.Limit))+", "+
		"pg_catalog.set_config('pgadvisory.slot', '-1', true)")
	m = m.Select(w.Before)
	m.add("DO", w.block())
	m.Statements = append(m.Statements, slot)
	m.add("COMMIT", "commit")
	return m
}

// slot shows the setting that the block has left. It is SHOW because the server
// plans no SHOW, and the caller waits for it.
var slot = Statement{SQL: "show pgadvisory.slot", Tag: "SHOW", Answer: Rows}

func (w *SessionWait) block() string {
	settings := ""
	if w.Settings != "" {
		settings = "perform " + w.Settings + "; "
	}
	one := w.Keys[w.One]
	var b strings.Builder
	b.WriteString("do $pgadvisory$ declare slot integer := case " + w.Obstacles + " end; taken pg_catalog.text; begin " +
		"if slot is null then begin " + settings +
		"perform pg_catalog.set_config('pgadvisory.slot', '" + strconv.Itoa(w.One) + "', true); " +
		"for step in 1..2 loop taken := case when step operator(pg_catalog.=) 1 then " + Call(XactLock, w.Shared, one) + "::pg_catalog.text " +
		"else " + Call(Lock, w.Shared, one) + "::pg_catalog.text end; end loop; return; " +
		"exception when lock_not_available then ")
	if len(w.Keys) > 1 {
		b.WriteString("slot := " + TakeFirst(w.Shared, w.Keys) + "; if slot is not null then " + settings + "end if; ")
	}
	b.WriteString("end; end if; if slot is not null then " +
		"perform pg_catalog.set_config('pgadvisory.slot', slot::pg_catalog.text, true); end if; end $pgadvisory$")
	return b.String()
}

// TakeFirst returns an expression that takes the first free of some locks for the
// session, and is its index, or NULL where there is none.
func TakeFirst(shared bool, keys []hashkey.Key) string {
	i := -1
	return firstOf(keys, func(key hashkey.Key) string { return Call(TryLock, shared, key) },
		func(hashkey.Key) string { i++; return strconv.Itoa(i) })
}

// SessionToken returns the message that asks for the fencing token of a session's
// lock, as text: the id of its transaction.
//
// A server that crashes forgets ids that no record on disk has, and assigns them
// once more; and a transaction that has written nothing does not wait for its
// record to be on disk. So this one writes something, a message for logical
// decoding, which PostgreSQL ignores, as no plugin has its prefix. It waits at
// synchronous_commit = off too, as the setting counts until the COMMIT.
func SessionToken() Message {
	return Select("select pg_catalog.pg_current_xact_id()::pg_catalog.text, " +
		"pg_catalog.set_config('synchronous_commit', case value when 'off' then 'local' else value end, true) " +
		"from pg_catalog.current_setting('synchronous_commit') value, pg_catalog.pg_logical_emit_message(true, 'pgadvisory', '')")
}
