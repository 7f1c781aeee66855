package locksql

import (
	"strconv"
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// The limits of the role and the database are set aside for a wait and put back
// after it, in the same message. Their values are kept in settings of our own,
// local to the transaction, because nothing else in one message carries a value
// from one statement to the next. A transaction_timeout starts anew when it is
// put back: it counts what the transaction does, not what it waited.
const (
	setAside = "select " +
		"pg_catalog.set_config('pgadvisory.statement_timeout', pg_catalog.current_setting('statement_timeout'), true), " +
		"pg_catalog.set_config('statement_timeout', '0', true), " +
		"case when " + hasTransactionTimeout + " then " +
		"pg_catalog.set_config('pgadvisory.transaction_timeout', pg_catalog.current_setting('transaction_timeout'), true) end, " +
		"case when " + hasTransactionTimeout + " then " +
		"pg_catalog.set_config('transaction_timeout', '0', true) end"
	putBack = "select " +
		"pg_catalog.set_config('statement_timeout', pg_catalog.current_setting('pgadvisory.statement_timeout'), true), " +
		"case when " + hasTransactionTimeout + " then " +
		"pg_catalog.set_config('transaction_timeout', pg_catalog.current_setting('pgadvisory.transaction_timeout'), true) end"

	// hasTransactionTimeout is true from PostgreSQL 17.
	hasTransactionTimeout = "pg_catalog.current_setting('transaction_timeout', true) is not null"
)

// withoutLimits adds a statement that sets all limits aside until the transaction
// ends.
func (m *Message) withoutLimits() { m.add("SELECT", "select "+withLockTimeout("0")) }

// withLockTimeout returns expressions that set lock_timeout, and set all other limits
// aside, until the transaction ends.
func withLockTimeout(milliseconds string) string {
	return "pg_catalog.set_config('statement_timeout', '0', true), " +
		"pg_catalog.set_config('lock_timeout', '" + milliseconds + "', true), " +
		"case when " + hasTransactionTimeout + " then pg_catalog.set_config('transaction_timeout', '0', true) end"
}

// The server counts lock_timeout for each lock. Where the waits for several are to
// end together, keepEnd notes when that is, $2 milliseconds from now, and untilEnd
// sets lock_timeout to what is left.
const (
	keepEnd = "pg_catalog.set_config('pgadvisory.end', (" + nowMilliseconds + " operator(pg_catalog.+) $2::bigint)::pg_catalog.text, true)"

	untilEnd = "pg_catalog.set_config('lock_timeout', greatest(1, pg_catalog.current_setting('pgadvisory.end')::bigint" +
		" operator(pg_catalog.-) " + nowMilliseconds + ")::pg_catalog.text, true)"

	nowMilliseconds = "(extract(epoch from pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000)::bigint"
)

// lockWithin is a statement that waits for a transaction's lock of key, for at most limit.
// A wait that ends is an error, which the server logs, and so is one that reaches the
// role's statement_timeout. The role's lock_timeout and transaction_timeout are set aside
// and put back. The text is the same for all keys of a kind. The numbers go as text, which
// no protocol misreads.
func lockWithin(shared bool, key hashkey.Key, limit time.Duration) Statement {
	all := []Param{{Number: Milliseconds(limit)}}
	args := "($2::pg_catalog.text::bigint)"
	class, object, pair := key.Pair()
	if pair {
		args = "($2::pg_catalog.text::integer, $3::pg_catalog.text::integer)"
		all = append(all, Param{Number: int64(class)}, Param{Number: int64(object)})
	} else {
		all = append(all, Param{Number: key.Int64()})
	}
	return Statement{
		SQL: "select pg_catalog.set_config('lock_timeout', $1, true), " +
			"case when whole is not null then pg_catalog.set_config('transaction_timeout', '0', true) end, " +
			function(XactLock, shared) + args + ", pg_catalog.set_config('lock_timeout', before, true), " +
			"case when whole is not null then pg_catalog.set_config('transaction_timeout', whole, true) end " +
			"from (select pg_catalog.current_setting('lock_timeout') as before, " +
			"pg_catalog.current_setting('transaction_timeout', true) as whole offset 0) as setting" + onPrimary,
		Params: all,
		Tag:    "SELECT",
		Answer: Locked,
	}
}

// quietly waits for the transaction's locks of keys, for at most limit, which is
// not 0. A wait that ends is no error, so that the server logs nothing: the
// setting pgadvisory.granted is false then. A lock that was granted inside the
// block stays with the transaction. Nothing is locked unless condition, if it is
// not "", is true.
func (m *Message) quietly(shared bool, keys []hashkey.Key, limit time.Duration, condition string) {
	ms := Param{Number: Milliseconds(limit)}
	if len(keys) == 1 {
		m.addWith([]Param{ms}, setQuietly)
	} else { // one after the other: together they have the time that one has
		m.addWith([]Param{ms, ms}, setQuietly+", "+keepEnd)
	}
	var locks strings.Builder
	for i, key := range keys {
		if i > 0 {
			locks.WriteString("perform " + untilEnd + "; ")
		}
		locks.WriteString("perform " + Call(XactLock, shared, key) + "; ")
	}
	m.waitInBlock(locks.String(), condition)
}

// setQuietly is what comes before the block of a quiet wait. The limit of the
// wait is $1.
const setQuietly = setLockTimeout + ", pg_catalog.set_config('pgadvisory.granted', 'true', true)"

const (
	// setLockTimeout sets lock_timeout to $1, and keeps what it was.
	setLockTimeout = "select " +
		"pg_catalog.set_config('pgadvisory.lock_timeout', pg_catalog.current_setting('lock_timeout'), true), " +
		"pg_catalog.set_config('lock_timeout', $1, true)"

	putLockTimeoutBack = "select pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgadvisory.lock_timeout'), true)"
)

// waitInBlock executes locks, if condition is true or "", in the block of a quiet
// wait, and puts lock_timeout back.
func (m *Message) waitInBlock(locks, condition string) {
	if condition != "" {
		locks = "if " + condition + " then " + locks + "end if; "
	}
	m.add("DO", "do $pgadvisory$ begin "+locks+"exception when lock_not_available then "+
		"perform pg_catalog.set_config('pgadvisory.granted', 'false', true); end $pgadvisory$")
	m.add("SELECT", putLockTimeoutBack)
}

// quietlyGranted is true after quietly if all locks were granted.
const quietlyGranted = "pg_catalog.current_setting('pgadvisory.granted')::boolean"

// maxHold has the server end the session if the transaction goes silent for
// longer than hold, and from PostgreSQL 17 if it lasts longer at all. A
// transaction_timeout that is already running is not changed by a new value,
// only by 0, so it is stopped first.
//
// The second limit is the longer one by a millisecond, because the server
// leaves the first one out where the second is as short, and a statement that
// fails stops all timers, which the second is not started again after.
func (m *Message) maxHold(hold time.Duration) {
	silent := Milliseconds(hold)
	whole := min(silent+1, Milliseconds(1<<63-1))
	m.add("SELECT", "select pg_catalog.set_config('idle_in_transaction_session_timeout', '"+strconv.FormatInt(silent, 10)+"', true)")
	m.add("SELECT", "select pg_catalog.set_config('transaction_timeout', '0', true), "+
		"pg_catalog.set_config('transaction_timeout', '"+strconv.FormatInt(whole, 10)+"', true) where "+hasTransactionTimeout)
}
