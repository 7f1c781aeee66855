package locksql

import (
	"strings"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// slots returns the locks of n slots of key.
func slots(key hashkey.Key, n int) []hashkey.Key {
	all := make([]hashkey.Key, n)
	for i := range all {
		all[i] = key.Slot(i)
	}
	return all
}

// firstOf returns an expression that asks condition for one key after the other,
// and is then of the first for which it is true; if there is none, it is NULL.
func firstOf(keys []hashkey.Key, condition, then func(hashkey.Key) string) string {
	var b strings.Builder
	b.WriteString("case ")
	for _, key := range keys {
		b.WriteString("when " + condition(key) + " then " + then(key) + " ")
	}
	b.WriteString("end")
	return b.String()
}

// locks returns all keys that the transaction may lock.
func (t *Transaction) locks() []hashkey.Key {
	if t.Slots > 0 {
		return slots(t.Keys[0], t.Slots)
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

// ofHeld returns an expression of the slot that the session holds.
func (t *Transaction) ofHeld(then func(hashkey.Key) string) string {
	return firstOf(t.locks(), Held, then)
}

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

// anySlot returns a condition that is true if one of n slots of key was free,
// and is the transaction's now.
func anySlot(shared bool, key hashkey.Key, n int) string {
	return "coalesce(" + firstOf(slots(key, n), func(key hashkey.Key) string { return Call(TryXactLock, shared, key) },
		func(hashkey.Key) string { return "true" }) + ", false)"
}

// TrySlotsIn is [TryIn] for one of n slots of key.
func TrySlotsIn(shared bool, key hashkey.Key, n int) string {
	var m Message
	whens, _ := obstacles(true)
	return m.end(whens, anySlot(shared, key, n), true)
}

// WaitSlotsIn is [WaitIn] for one of n slots of key, of which it waits for one.
func WaitSlotsIn(shared bool, key hashkey.Key, n, one int, limit time.Duration) string {
	var m Message
	whens, noObstacle := obstacles(true)
	m.add("SELECT", setAside)
	m.quietly(shared, []hashkey.Key{key.Slot(one)}, limit, noObstacle)
	m.add("SELECT", putBack)
	return m.end(whens, "("+quietlyGranted+" or "+anySlot(shared, key, n)+")", true)
}
