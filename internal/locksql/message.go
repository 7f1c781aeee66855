package locksql

import (
	"strconv"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Message is SQL of several statements, sent as one. Each method adds one
// statement or more.
type Message struct{ text []byte }

// Sized returns an empty Message with room for n bytes.
func Sized(n int) Message { return Message{make([]byte, 0, n)} }

// String returns the SQL.
func (m *Message) String() string { return string(m.text) }

// Statement adds one statement, as it is.
func (m *Message) Statement(sql string) {
	m.next()
	m.text = append(m.text, sql...)
}

func (m *Message) next() {
	if len(m.text) > 0 {
		m.text = append(m.text, "; "...)
	}
}

// Begin begins a transaction at an isolation level.
func (m *Message) Begin(level string, readOnly bool) {
	m.next()
	m.text = append(m.text, "begin isolation level "...)
	m.text = append(m.text, level...)
	if readOnly {
		m.text = append(m.text, " read only"...)
	}
}

// All asks whether f is true for every key, up to the first for which it is
// not.
func (m *Message) All(f Func, shared bool, keys []hashkey.Key) {
	m.next()
	m.text = append(m.text, "select "...)
	m.text = appendAll(m.text, f, shared, keys)
}

// Each calls f for each key, one statement for each.
func (m *Message) Each(f Func, shared bool, keys []hashkey.Key) {
	for _, key := range keys {
		m.next()
		m.text = append(m.text, "select "...)
		m.text = appendCall(m.text, f, shared, key)
	}
}

// Handover exchanges, for each key, a lock held by the session for the same
// lock held by the transaction, without a gap: the server answers true where
// it did, and NULL where the session had no lock and somebody else has it.
//
// CASE calls the second function only if the first returned true, so no unlock
// is asked for that could fail with a warning in the server's log, short of a
// lock that was freed that very moment.
func (m *Message) Handover(shared bool, keys []hashkey.Key) {
	for _, key := range keys {
		m.next()
		m.text = append(m.text, "select "...)
		m.text = appendHandover(m.text, shared, key)
	}
}

func appendHandover(b []byte, shared bool, key hashkey.Key) []byte {
	b = append(b, "case when "...)
	b = appendCall(b, TryXactLock, shared, key)
	b = append(b, " then "...)
	b = appendCall(b, Unlock, shared, key)
	return append(b, " end"...)
}

// Held asks, for all keys at once, whether this session holds them, in
// whatever mode.
func (m *Message) Held(keys []hashkey.Key) {
	m.Statement("select " + HeldAll(keys))
}

// HeldAll returns the expression of Held. pg_locks shows a bigint as classid
// and objid, high half first, with objsubid 1, and a pair as the same two with
// objsubid 2.
func HeldAll(keys []hashkey.Key) string {
	const equal = " operator(pg_catalog.=) "
	var b []byte
	for i, key := range keys {
		if i > 0 {
			b = append(b, " and "...)
		}
		b = append(b, "exists (select from pg_catalog.pg_locks where granted and locktype"+equal+"'advisory'"+
			" and pid"+equal+"pg_catalog.pg_backend_pid() and objsubid"+equal...)
		if _, _, ok := key.Pair(); ok {
			b = append(b, '2')
		} else {
			b = append(b, '1')
		}
		b = append(b, " and classid"+equal...)
		b = appendOID(b, uint32(key.Int64()>>32))
		b = append(b, " and objid"+equal...)
		b = appendOID(b, uint32(key.Int64()))
		b = append(b, ')')
	}
	return string(b)
}

// SetAside takes the limits of the role and the database off the statements
// that follow in the transaction, and bounds the wait for a lock with limit
// where that is not 0.
func (m *Message) SetAside(limit time.Duration) {
	m.Statement(SetAside)
	m.Statement("select " +
		"pg_catalog.set_config('pgadvisory.lock_timeout', pg_catalog.current_setting('lock_timeout'), true), " +
		"pg_catalog.set_config('lock_timeout', '" + strconv.FormatInt(Milliseconds(limit), 10) + "', true)")
}

// Limit bounds the wait for a lock with limit, and with nothing where that is
// 0, for the statements that follow in the transaction. The limits of the role
// and the database are in force again when it ends.
func (m *Message) Limit(limit time.Duration) {
	m.Statement("select " +
		"pg_catalog.set_config('statement_timeout', '0', true), " +
		"pg_catalog.set_config('lock_timeout', '" + strconv.FormatInt(Milliseconds(limit), 10) + "', true), " +
		"case when " + hasTransactionTimeout + " then pg_catalog.set_config('transaction_timeout', '0', true) end")
}

// PutBack undoes SetAside, once the lock is granted.
func (m *Message) PutBack() {
	m.Statement(PutBack)
	m.Statement("select pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgadvisory.lock_timeout'), true)")
}

// The statements of SetAside and PutBack for all limits but lock_timeout, which
// are the same every time. The values are kept in settings of our own, because
// nothing else in one message carries a value from one statement to the next. A
// transaction_timeout starts anew when it is put back: it counts what the
// transaction does, not what it waited.
const (
	SetAside = "select " +
		"pg_catalog.set_config('pgadvisory.statement_timeout', pg_catalog.current_setting('statement_timeout'), true), " +
		"pg_catalog.set_config('statement_timeout', '0', true), " +
		"case when " + hasTransactionTimeout + " then " +
		"pg_catalog.set_config('pgadvisory.transaction_timeout', pg_catalog.current_setting('transaction_timeout'), true) end, " +
		"case when " + hasTransactionTimeout + " then " +
		"pg_catalog.set_config('transaction_timeout', '0', true) end"
	PutBack = "select " +
		"pg_catalog.set_config('statement_timeout', pg_catalog.current_setting('pgadvisory.statement_timeout'), true), " +
		"case when " + hasTransactionTimeout + " then " +
		"pg_catalog.set_config('transaction_timeout', pg_catalog.current_setting('pgadvisory.transaction_timeout'), true) end"

	// hasTransactionTimeout is true from PostgreSQL 17.
	hasTransactionTimeout = "pg_catalog.current_setting('transaction_timeout', true) is not null"
)

// LockWithin returns one statement that waits for a transaction's lock of key,
// for at most limit where that is not 0, and puts lock_timeout back, and its
// parameters. The text is the same for all keys of a kind, to be prepared once;
// the numbers are passed as text, which no protocol misreads.
func LockWithin(shared bool, key hashkey.Key, limit time.Duration) (sql string, params []string) {
	milliseconds := strconv.FormatInt(Milliseconds(limit), 10)
	class, object, pair := key.Pair()
	switch {
	case pair && shared:
		return lockPairSharedWithin, []string{milliseconds, strconv.Itoa(int(class)), strconv.Itoa(int(object))}
	case pair:
		return lockPairWithin, []string{milliseconds, strconv.Itoa(int(class)), strconv.Itoa(int(object))}
	case shared:
		return lockSharedWithin, []string{milliseconds, strconv.FormatInt(key.Int64(), 10)}
	}
	return lockWithin, []string{milliseconds, strconv.FormatInt(key.Int64(), 10)}
}

const (
	lockWithin           = limited + "pg_catalog.pg_advisory_xact_lock($2::pg_catalog.text::bigint)" + unlimited
	lockSharedWithin     = limited + "pg_catalog.pg_advisory_xact_lock_shared($2::pg_catalog.text::bigint)" + unlimited
	lockPairWithin       = limited + "pg_catalog.pg_advisory_xact_lock" + ofPair + unlimited
	lockPairSharedWithin = limited + "pg_catalog.pg_advisory_xact_lock_shared" + ofPair + unlimited

	limited   = "select pg_catalog.set_config('lock_timeout', $1, true), "
	ofPair    = "($2::pg_catalog.text::integer, $3::pg_catalog.text::integer)"
	unlimited = ", pg_catalog.set_config('lock_timeout', before, true) " +
		"from (select pg_catalog.current_setting('lock_timeout') as before offset 0) as setting"
)

// MaxHold has the server end the session if the transaction goes silent for
// longer than hold, and from PostgreSQL 17 if it lasts longer at all. A
// transaction_timeout that is already running is not changed by a new value,
// only by 0, so it is stopped first.
//
// The second limit is the longer one by a millisecond, because the server
// leaves the first one out where the second is as short, and a statement that
// fails stops all timers, which the second is not started again after.
func (m *Message) MaxHold(hold time.Duration) {
	silent := strconv.FormatInt(Milliseconds(hold), 10)
	whole := strconv.FormatInt(Milliseconds(hold+time.Millisecond), 10)
	m.Statement("select pg_catalog.set_config('idle_in_transaction_session_timeout', '" + silent + "', true)")
	m.Statement("select pg_catalog.set_config('transaction_timeout', '0', true), " +
		"pg_catalog.set_config('transaction_timeout', '" + whole + "', true) where " + hasTransactionTimeout)
}
