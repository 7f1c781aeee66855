package locksql

import (
	"strconv"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// SessionLock is a lock for a session, which gets settings with it. If it is refused,
// nothing has changed on the session.
type SessionLock struct {
	Shared   bool
	Keys     []hashkey.Key // the session is to get one of them
	PID      uint32        // of the session, as the client was told
	Pooled   bool          // a pooler in between is accepted
	Yield    bool          // it is refused where another session waits for the first key
	Settings []Setting     // that the server may have
}

// The columns of the last rows of an answer: which of the keys the session has got,
// and the settings that it had before, a row for each.
const (
	SlotColumn = iota
	NameColumn // of a setting; missing or NULL in a row that shows none
	OldColumn
)

// What is in SlotColumn, if it is not NULL, which is a refusal too, or the index of
// the key.
const (
	SessionRefused = -1
	SessionStandby = -2
	SessionPooler  = -3
)

// obstacles are where a lock would exclude no session, or would stay behind in a
// pooler: the pid that the client was told is then not that of the session. They
// are asked for in the statement that locks, because a pooler may send the next
// one elsewhere, and a standby may be promoted.
func (l *SessionLock) obstacles() string {
	whens := when(standbySQL, SessionStandby)
	if !l.Pooled {
		whens += when("pg_catalog.pg_backend_pid() operator(pg_catalog.<>) "+strconv.FormatUint(uint64(l.PID), 10), SessionPooler)
	}
	if l.Yield {
		whens += when(wanted(l.Keys[0]), SessionRefused)
	}
	return whens
}

// Try asks for the first free of the locks, without waiting. The question is put once,
// though a row for each setting follows from it: WITH … AS MATERIALIZED says so.
func (l *SessionLock) Try() Message {
	asked := "with asked as materialized (select slot from (select " +
		"case " + l.obstacles() + "else " + takeFirst(l.Shared, l.Keys) + " end as slot offset 0) as one) select asked.slot"
	if len(l.Settings) == 0 {
		return Select(asked + " from asked")
	}
	return Select(asked + ", s.name, pg_catalog.current_setting(s.name, true), case when s.name is not null then " + set + " end " +
		"from asked left join " + table(l.Settings) + " on asked.slot operator(pg_catalog.>=) 0 and " + known)
}

// Wait waits for the one-th of the locks, for at most limit, which is not 0, in a
// transaction of its own. A wait that ends is no error, so that the server logs
// nothing; it is then that the other locks are asked for, without waiting.
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
func (l *SessionLock) Wait(one int, limit time.Duration) Message {
	from := " from " + table(l.Settings) + " where " + known
	var m Message
	m.Statements = append(m.Statements, beginReadCommitted)
	m.add("SELECT", "select "+withLockTimeout(milliseconds(limit))+", "+
		"pg_catalog.set_config('pgadvisory.slot', '-1', true)")
	m = m.Select("select null, s.name, pg_catalog.current_setting(s.name, true)" + from)
	m.add("DO", l.block(one, "perform "+set+from+"; "))
	m.Statements = append(m.Statements, slot)
	m.add("COMMIT", "commit")
	return m
}

// slot shows the setting that the block has left. It is SHOW because the server
// plans no SHOW, and the caller waits for it.
var slot = Statement{SQL: "show pgadvisory.slot", Tag: "SHOW", Answer: Rows}

// block waits for the one-th lock, and executes settings if it takes one.
func (l *SessionLock) block(one int, settings string) string {
	waited := l.Keys[one]
	var b strings.Builder
	b.WriteString("do $pgadvisory$ declare slot integer := case " + l.obstacles() + "end; taken pg_catalog.text; begin " +
		"if slot is null then begin " + settings +
		"perform pg_catalog.set_config('pgadvisory.slot', '" + strconv.Itoa(one) + "', true); " +
		"for step in 1..2 loop taken := case when step operator(pg_catalog.=) 1 then " + Call(XactLock, l.Shared, waited) + "::pg_catalog.text " +
		"else " + Call(Lock, l.Shared, waited) + "::pg_catalog.text end; end loop; return; " +
		"exception when lock_not_available then ")
	if len(l.Keys) > 1 {
		b.WriteString("slot := " + takeFirst(l.Shared, l.Keys) + "; if slot is not null then " + settings + "end if; ")
	}
	b.WriteString("end; end if; if slot is not null then " +
		"perform pg_catalog.set_config('pgadvisory.slot', slot::pg_catalog.text, true); end if; end $pgadvisory$")
	return b.String()
}

// takeFirst returns an expression that takes the first free of some locks for the
// session, and is its index, or NULL where there is none.
func takeFirst(shared bool, keys []hashkey.Key) string {
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

// UnlockSession gives a session's lock back, and the saved settings their defaults,
// and shows what those are. With besides it frees what else the session may hold,
// which must not reach the pool either: a lock taken by hand, or the same lock once
// more.
//
// It is one statement, and the server evaluates its expressions one after the other.
// What it does after the unlock is in the way of the next holder, where both share a
// processor. The key is a parameter: the text is the same for all keys of a kind.
func UnlockSession(shared bool, key hashkey.Key, besides bool, saved []Setting) Message {
	sql := "select " + function(Unlock, shared) + "($1)"
	if _, _, pair := key.Pair(); pair {
		sql = "select " + function(Unlock, shared) + "($1, $2)"
	}
	if besides {
		sql += ", pg_catalog.pg_advisory_unlock_all()"
	}
	m := One(Statement{SQL: sql + reset(saved), Params: params(key), Tag: "SELECT", Answer: Rows})
	m.Prepare = true
	return m
}

// CountHeld asks how many locks the session holds.
func CountHeld() Message {
	return Select("select pg_catalog.count(*) from pg_catalog.pg_locks" +
		" where locktype operator(pg_catalog.=) 'advisory' and granted and pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()")
}
