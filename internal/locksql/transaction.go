package locksql

import (
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// Transaction is what a transaction that holds locks is like, and writes the
// messages that begin and end it.
//
// READ COMMITTED takes a snapshot for each statement, so the lock can simply be
// asked for in the transaction: what fn reads, it reads afterwards.
//
// REPEATABLE READ and SERIALIZABLE take one snapshot, in their first statement,
// and a statement that waits for a lock takes it before the wait: fn would then
// read what was there before the previous holder committed. So the wait has a
// transaction of its own. The session takes the lock as well, which it gets at
// once, and hands it over to the transaction that fn gets, on the same backend
// and without a gap. All of it is one message, which even a pooler in
// transaction mode keeps on one server connection. COMMIT AND CHAIN leaves no
// moment between the two transactions in which the session is idle with the
// lock: a statement that is cancelled in such a moment would leave the pooler
// free to give the session to another client.
//
// The wait is for the transaction's lock, which a rollback frees in any case. A
// session's lock can be held although the wait for it ended in an error.
//
// Each opening message ends in a savepoint. A statement that fails aborts the
// transaction, and PostgreSQL frees a transaction's locks at its abort, not at
// the ROLLBACK that follows: without the savepoint fn would go on, handling the
// error, while the next holder is already inside. COMMIT comes after a RELEASE
// of the savepoint, which fails if fn has ended this transaction and begun
// another.
type Transaction struct {
	Keys     []hashkey.Key // sorted, without duplicates, at least one
	Slots    int           // >0: any of so many slots of the one key
	WaitSlot int           // which of them to wait for
	Shared   bool
	Level    string // as in BEGIN: it is always named, whatever the server's default
	ReadOnly bool
	MaxHold  time.Duration // 0: no limit
}

// The isolation levels.
const (
	ReadUncommitted = "read uncommitted"
	ReadCommitted   = "read committed"
	RepeatableRead  = "repeatable read"
	Serializable    = "serializable"
)

const (
	savepoint = "savepoint pgadvisory"
	Release   = "release savepoint pgadvisory"
)

// OneSnapshot reports whether the transaction reads from one snapshot.
func (t *Transaction) OneSnapshot() bool { return t.Level == RepeatableRead || t.Level == Serializable }

// Begin returns the statement that begins the transaction.
func (t *Transaction) Begin() Statement {
	if t.ReadOnly {
		return Statement{SQL: "begin isolation level " + t.Level + " read only", Tag: "BEGIN"}
	}
	if t.Level == ReadCommitted {
		return beginReadCommitted // rather than put the text together for each call
	}
	return Statement{SQL: "begin isolation level " + t.Level, Tag: "BEGIN"}
}

var beginReadCommitted = Statement{SQL: "begin isolation level " + ReadCommitted, Tag: "BEGIN"}

// Try begins the transaction and asks for the locks without waiting.
func (t *Transaction) Try() Message {
	m := Message{Statements: make([]Statement, 0, 3)} // enough for most calls
	switch {
	case t.Slots > 0:
		t.trySlots(&m)
	case t.OneSnapshot():
		m.Statements = append(m.Statements, beginReadCommitted)
		m.ask("case when " + All(TryXactLock, t.Shared, t.Keys) + " then " + All(TryLock, t.Shared, t.Keys) + " end")
	case len(t.Keys) == 1:
		m.Prepare, m.Follow = t.MaxHold == 0, releaseAndCommit.Statements
		m.Statements = append(m.Statements, t.Begin(), tryOne(t.Shared, t.Keys[0]))
	default:
		m.Statements = append(m.Statements, t.Begin())
		m.ask(All(TryXactLock, t.Shared, t.Keys))
	}
	t.afterGrant(&m)
	return m
}

// tryOne asks for key, without waiting.
func tryOne(shared bool, key hashkey.Key) Statement {
	_, _, pair := key.Pair()
	s := tries[kind{shared, pair}]
	s.Params = params(key)
	return s
}

type kind struct{ shared, pair bool }

// tries are the statements of tryOne, but for their parameters. They are put together
// and named once, rather than for each call.
var tries = map[kind]Statement{
	{false, false}: try("pg_try_advisory_xact_lock($1)"),
	{false, true}:  try("pg_try_advisory_xact_lock($1, $2)"),
	{true, false}:  try("pg_try_advisory_xact_lock_shared($1)"),
	{true, true}:   try("pg_try_advisory_xact_lock_shared($1, $2)"),
}

func try(call string) Statement {
	s := Statement{SQL: "select pg_catalog." + call + onPrimary, Tag: "SELECT", Answer: Granted}
	s.Name = s.PreparedName()
	return s
}

// Wait begins the transaction and waits for the locks, for at most limit. The limits of the role and the database are set aside for the
// wait. A wait that ends is an error with SQLSTATE 55P03, or, if quiet or for several
// locks, a lock that is not granted.
func (t *Transaction) Wait(limit time.Duration, quiet bool) Message {
	m := Message{Statements: make([]Statement, 0, 12)}
	if t.Slots > 0 {
		t.waitSlots(&m, limit)
		t.afterGrant(&m)
		return m
	}
	quiet = quiet || len(t.Keys) > 1
	if t.OneSnapshot() {
		m.Statements = append(m.Statements, beginReadCommitted)
		m.withoutLimits()
		t.wait(&m, limit, quiet)
		session := All(TryLock, t.Shared, t.Keys)
		if quiet {
			session = "case when " + quietlyGranted + " then " + session + " end"
		}
		m.ask(session)
	} else {
		m.Prepare, m.Follow = !quiet && t.MaxHold == 0, releaseAndCommit.Statements
		m.Statements = append(m.Statements, t.Begin())
		m.add("SELECT", setAside)
		t.wait(&m, limit, quiet)
		m.add("SELECT", putBack)
		if quiet {
			m.ask(quietlyGranted)
		}
	}
	t.afterGrant(&m)
	return m
}

func (t *Transaction) wait(m *Message, limit time.Duration, quiet bool) {
	if quiet {
		m.quietly(t.Shared, t.Keys, limit, "")
	} else {
		m.Statements = append(m.Statements, lockWithin(t.Shared, t.Keys[0], limit))
	}
}

// afterGrant adds what follows the grant.
func (t *Transaction) afterGrant(m *Message) {
	if t.OneSnapshot() {
		m.add("COMMIT", "commit and chain")
		mode := "set transaction isolation level " + t.Level
		if t.ReadOnly {
			mode += ", read only"
		}
		m.add("SET", mode)
		if s := t.slots(); t.Slots > 0 {
			m.ask(s.ofHeld("case when " + s.call(TryXactLock) + " then " + s.call(Unlock) + " end"))
		} else {
			m.ask(handover(t.Shared, t.Keys...))
		}
	}
	if t.Level == Serializable {
		m.Statements = append(m.Statements, Statement{SQL: "select pg_catalog.pg_backend_pid()", Tag: "SELECT", Answer: PID})
	}
	if t.MaxHold > 0 {
		m.maxHold(t.MaxHold)
	}
	m.add("SAVEPOINT", savepoint)
}

// handover exchanges locks held by the session for the same locks held by the
// transaction, without a gap. The answer is true where it did, and NULL where
// the session had no locks and another has one of them.
//
// CASE comes to the unlocks only if the transaction got all locks, so no unlock
// is asked for that could fail with a warning in the server's log, short of a
// lock that was freed that very moment.
func handover(shared bool, keys ...hashkey.Key) string {
	return "case when " + All(TryXactLock, shared, keys) + " then " + All(Unlock, shared, keys) + " end"
}

// Abandon ends what an opening message that failed has left. The session may
// hold a lock, if the message was cancelled between the wait and the handover.
func (t *Transaction) Abandon() Message {
	switch {
	case !t.OneSnapshot():
		return One(Rollback)
	case t.Slots > 0:
		return t.slots().forsake()
	}
	return Forsake(t.Shared, t.Keys...)
}

var releaseAndCommit = Message{
	Statements: []Statement{{SQL: Release, Tag: "RELEASE"}, {SQL: "commit", Name: "pgadvisory commit", Tag: "COMMIT"}},
	Prepare:    true,
}

// Commit ends the transaction. The index is that of its COMMIT.
//
// At SERIALIZABLE COMMIT is not enough where outlive is true. PostgreSQL frees a
// transaction's locks a moment before it records, for the sake of
// serializability, that the transaction is over (ProcReleaseLocks comes before
// ReleasePredicateLocks). The next holder can begin in between, and pass for
// concurrent with the one before it: three in a row fail with SQLSTATE 40001,
// though no two of them overlapped. So the session takes the locks as well,
// which it gets at once, and frees them after COMMIT.
//
// A statement that fails skips the rest of its message, and leaves the locks to
// [Transaction.Unlock]. Behind a pooler in transaction mode the session would be
// another client's by then, so outlive must be false there.
//
// A ROLLBACK has the same gap, which only matters after two failures in a row.
func (t *Transaction) Commit(outlive bool) (m Message, index int) {
	if !outlive {
		return releaseAndCommit, 1
	}
	m.add("RELEASE", Release)
	if s := t.slots(); t.Slots > 0 {
		m.add("SELECT", "select "+s.ofHeld(s.call(TryLock)))
		m.add("COMMIT", "commit")
		m.add("SELECT", "select "+s.ofHeld(s.call(Unlock)))
		return m, 2
	}
	for _, key := range t.Keys {
		m.add("SELECT", "select "+Call(Lock, t.Shared, key))
	}
	index = len(m.Statements)
	m.add("COMMIT", "commit")
	for _, key := range t.Keys {
		m.add("SELECT", "select "+Call(Unlock, t.Shared, key))
	}
	return m, index
}

// Unlock frees the session's locks, after the message of Commit has failed. Where
// it was COMMIT that failed, the session has them all, and if it has a slot, or
// another statement failed, the server is asked what it has.
func (t *Transaction) Unlock(all bool) Message {
	switch {
	case t.Slots > 0:
		return t.slots().forsake()
	case !all:
		return Forsake(t.Shared, t.Keys...)
	}
	m := One(Rollback)
	for _, key := range t.Keys {
		m.add("SELECT", "select "+Call(Unlock, t.Shared, key))
	}
	return m
}

// Exec returns what comes before and after the one statement of a transaction
// at READ COMMITTED that goes in one message. The wait for the lock of its one key
// has the limit.
func (t *Transaction) Exec(limit time.Duration) (before, after Message) {
	before.Prepare = true
	before.Statements = []Statement{t.Begin(), lockWithin(t.Shared, t.Keys[0], limit)}
	after.add("COMMIT", "commit")
	return before, after
}

// EndsTransaction reports whether a command tag is that of a statement which
// ends the transaction it is executed in, at a place where no savepoint is.
func EndsTransaction(tag string) bool {
	return tag == "COMMIT" || tag == "ROLLBACK" || strings.HasPrefix(tag, "PREPARE TRANSACTION")
}

// locks returns all keys that the transaction may lock.
func (t *Transaction) locks() []hashkey.Key {
	if t.Slots > 0 {
		return Slots(t.Keys[0], t.Slots)
	}
	return t.Keys
}

// beginSlots begins the transaction that asks for a slot.
func (t *Transaction) beginSlots() Statement {
	if t.OneSnapshot() {
		return beginReadCommitted
	}
	return t.Begin()
}

// taken is what becomes of a slot that the transaction has: the session takes it
// as well, where it is to be handed over.
func (t *Transaction) taken(key hashkey.Key) string {
	if t.OneSnapshot() {
		return Call(TryLock, t.Shared, key)
	}
	return "true"
}

// takeSlot returns an expression that takes the first free slot.
func (t *Transaction) takeSlot() string {
	return firstOf(t.locks(), func(key hashkey.Key) string { return Call(TryXactLock, t.Shared, key) }, t.taken)
}

func (t *Transaction) slots() slots { return slots{t.Keys[0], t.Slots, t.Shared} }

// trySlots asks for a slot without waiting.
func (t *Transaction) trySlots(m *Message) {
	m.Statements = append(m.Statements, t.beginSlots())
	m.ask(t.takeSlot())
}

// waitSlots waits for one slot, for at most limit, which is not 0, and if it is
// not granted asks for all: a slot that is free meanwhile is found then. A wait
// that ends is no error.
func (t *Transaction) waitSlots(m *Message, limit time.Duration) {
	one := t.Keys[0].Slot(t.WaitSlot)
	m.Statements = append(m.Statements, t.beginSlots())
	m.add("SELECT", setAside)
	m.quietly(t.Shared, []hashkey.Key{one}, limit, "")
	m.add("SELECT", putBack)
	m.ask("case when " + quietlyGranted + " then " + t.taken(one) + " else " + t.takeSlot() + " end")
}
