package locksql

import (
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// All that a driver tells of a message without parameters is how many rows its
// last statement had. So where the driver's connection is not in our hands, a
// message that locks ends in a select with as many rows as its verdict says.
const (
	VerdictRefused = iota
	VerdictGranted
	VerdictStale    // nothing was locked
	VerdictStandby  // nothing was locked
	VerdictPretends // nothing was locked
)

const (
	pretendsSQL = "pg_catalog.current_setting('crdb_version', true) is not null"
	staleSQL    = "not pg_catalog.starts_with(pg_catalog.current_setting('transaction_isolation'), 'read ')"
)

var (
	whenNoServer = when(pretendsSQL, VerdictPretends) + when(standbySQL, VerdictStandby)
	whenStale    = when(staleSQL, VerdictStale)
)

// when is a branch of a case that answers with number.
func when(condition string, number int) string {
	return "when " + condition + " then " + strconv.Itoa(number) + " "
}

// obstacles returns the verdicts that come before any lock, and a condition
// that is true where none of them applies. The isolation level is one of them,
// unless it is known.
func obstacles(levelKnown bool) (whens, none string) {
	if levelKnown {
		return whenNoServer, "not (" + pretendsSQL + " or " + standbySQL + ")"
	}
	return whenNoServer + whenStale, "not (" + pretendsSQL + " or " + standbySQL + " or " + staleSQL + ")"
}

// end adds the verdict: granted, if condition is true and none of whens comes
// first; params are those of condition. Where the savepoint comes between the
// verdict and the end of the message, a setting keeps the verdict.
func (m *Message) end(whens, condition string, params []Param, savepointFollows bool) Message {
	number := "case " + whens + "when " + condition + " then 1 else 0 end"
	if savepointFollows {
		m.addWith(params, "select pg_catalog.set_config('pgadvisory.verdict', ("+number+")::pg_catalog.text, true)")
		m.add("SAVEPOINT", savepoint)
		number, params = "pg_catalog.current_setting('pgadvisory.verdict')::integer", nil
	}
	m.addWith(params, "select pg_catalog.generate_series(1, "+number+")")
	return *m
}

const (
	trySavepoint = "savepoint pgadvisory_try"
	tryRelease   = "release savepoint pgadvisory_try"
)

// inTransaction adds what fails, with SQLSTATE 25P01, where no transaction is
// open: a lock would be granted there, and be free when the message ends.
func (m *Message) inTransaction() {
	m.add("SAVEPOINT", trySavepoint)
	m.add("RELEASE", tryRelease)
}

// TryIn asks for keys in an open transaction, without waiting: all or none of
// them. The savepoint follows where the library has begun the transaction.
func TryIn(shared bool, keys []hashkey.Key, ours bool) Message {
	var m Message
	whens, noObstacle := obstacles(ours)
	if !ours {
		m.inTransaction()
	}
	if len(keys) == 1 {
		condition, params := allOf(TryXactLock, shared, keys)
		return m.end(whens, condition, params, ours)
	}
	// Some may be granted before one is refused. What a block with an
	// exception clause has locked is freed when it is left by one, as by
	// ROLLBACK TO a savepoint, but in the same message.
	m.add("SELECT", "select pg_catalog.set_config('pgadvisory.all', 'true', true)")
	m.add("DO", "do $pgadvisory$ begin "+
		"if "+noObstacle+" and not ("+All(TryXactLock, shared, keys)+") then raise sqlstate 'PGADV'; end if; "+
		"exception when sqlstate 'PGADV' then "+
		"perform pg_catalog.set_config('pgadvisory.all', 'false', true); "+
		"end $pgadvisory$")
	return m.end(whens, "pg_catalog.current_setting('pgadvisory.all')::boolean", nil, ours)
}

// WaitIn waits for keys in an open transaction, for at most limit where that is
// not 0. A wait that ends is an error with SQLSTATE 55P03, or a refusal in a
// transaction of the library's own, where the savepoint follows.
func WaitIn(shared bool, keys []hashkey.Key, limit time.Duration, ours bool) Message {
	var m Message
	whens, noObstacle := obstacles(ours)
	if !ours {
		m.inTransaction()
	}
	m.add("SELECT", setAside)
	if ours {
		m.quietly(shared, keys, limit, noObstacle)
		m.add("SELECT", putBack)
		return m.end(whens, quietlyGranted, nil, ours)
	}
	ms := Milliseconds(limit)
	if len(keys) == 1 || limit == 0 {
		m.addWith([]Param{{Number: ms}}, setLockTimeout)
	} else {
		m.addWith([]Param{{Number: ms}, {Number: ms}}, setLockTimeout+", "+keepEnd)
	}
	for i, key := range keys {
		call, params := allOf(XactLock, shared, []hashkey.Key{key})
		if i > 0 && limit > 0 {
			call = untilEnd + ", " + call
		}
		m.addWith(params, "select "+call+" where "+noObstacle)
	}
	m.add("SELECT", putBack)
	m.add("SELECT", putLockTimeoutBack)
	return m.end(whens, "true", nil, ours)
}

// SessionVerdict asks f, a session's function, about all keys.
func SessionVerdict(f Func, shared bool, keys []hashkey.Key) Message {
	var m Message
	return m.end(whenNoServer, All(f, shared, keys), nil, false)
}

// WaitForSession waits for the session's locks of keys, for at most limit, which
// is not 0, in a transaction of its own. The session may hold some of them
// before, from a try. The verdict is what the session holds in the end.
func WaitForSession(shared bool, keys []hashkey.Key, limit time.Duration) Message {
	var m Message
	_, noObstacle := obstacles(true)
	m.Statements = append(m.Statements, beginReadCommitted)
	m.withoutLimits()
	for _, key := range keys {
		if len(keys) > 1 { // or else a lock of the try would be counted twice
			m.unlockHeld(shared, key)
		}
	}
	m.quietly(shared, keys, limit, noObstacle)
	m.add("SELECT", "select case when "+quietlyGranted+" and "+noObstacle+" then "+All(TryLock, shared, keys)+" end")
	m.add("COMMIT", "commit")
	return m.end(whenNoServer, heldAll(keys), nil, false)
}

// Token asks for the fencing token of a transaction, as text: its id.
const Token = "select pg_catalog.pg_current_xact_id()::pg_catalog.text"

// MaxHold has the server bound a transaction of the library's own that is open.
func MaxHold(hold time.Duration) Message {
	var m Message
	m.maxHold(hold)
	m.add("RELEASE", Release) // or else fn's first error would put MaxHold back
	m.add("SAVEPOINT", savepoint)
	return m
}

// anySlot returns a condition that is true if one of n slots of key was free,
// and is the transaction's now.
func anySlot(shared bool, key hashkey.Key, n int) string {
	return "coalesce(" + firstOf(Slots(key, n), func(key hashkey.Key) string { return Call(TryXactLock, shared, key) },
		func(hashkey.Key) string { return "true" }) + ", false)"
}

// TrySlotsIn is [TryIn] for one of n slots of key.
func TrySlotsIn(shared bool, key hashkey.Key, n int) Message {
	var m Message
	whens, _ := obstacles(true)
	return m.end(whens, anySlot(shared, key, n), nil, true)
}

// WaitSlotsIn is [WaitIn] for one of n slots of key, of which it waits for one.
func WaitSlotsIn(shared bool, key hashkey.Key, n, one int, limit time.Duration) Message {
	var m Message
	whens, noObstacle := obstacles(true)
	m.add("SELECT", setAside)
	m.quietly(shared, []hashkey.Key{key.Slot(one)}, limit, noObstacle)
	m.add("SELECT", putBack)
	return m.end(whens, "("+quietlyGranted+" or "+anySlot(shared, key, n)+")", nil, true)
}
