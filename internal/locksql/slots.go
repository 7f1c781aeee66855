package locksql

import (
	"strconv"
	"strings"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// MaxSlots keeps the message that asks for all slots of a key from growing too large.
const MaxSlots = 10_000

// Slots returns the locks of n slots of key, or key alone where n is 0.
func Slots(key hashkey.Key, n int) []hashkey.Key {
	all := make([]hashkey.Key, max(1, n))
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

// slots is n slots of key, as the session has them.
type slots struct {
	key    hashkey.Key
	n      int
	shared bool
}

// held is the slots that the session holds, as a table in their order: at most
// limit of them, or all. pg_locks is read once, however many slots the key has.
func (s slots) held(limit string) string {
	var all strings.Builder
	for i, slot := range Slots(s.key, s.n) {
		if i > 0 {
			all.WriteByte(',')
		}
		all.WriteString(strconv.FormatInt(slot.Int64(), 10))
	}
	return "(select slot from (select " +
		"(classid::pg_catalog.int8 operator(pg_catalog.<<) 32) operator(pg_catalog.|) objid::pg_catalog.int8 as key " +
		"from pg_catalog.pg_locks where " + heldHere + " and objsubid" + equal + subID(s.key) + ") as held " +
		"join pg_catalog.unnest('{" + all.String() + "}'::pg_catalog.int8[]) with ordinality as slots (slot, place) " +
		"on key" + equal + "slot order by place " + limit + "offset 0) as held"
}

// call returns a call of f for the column of held.
func (s slots) call(f Func) string {
	args := "slot"
	if _, _, pair := s.key.Pair(); pair {
		args = "(slot operator(pg_catalog.>>) 32)::integer, ((slot operator(pg_catalog.<<) 32) operator(pg_catalog.>>) 32)::integer"
	}
	return function(f, s.shared) + "(" + args + ")"
}

// ofHeld returns an expression of the slot that the session holds. Of several it is
// the first: takeSlot, which takes what the session holds already, has taken none behind
// it. If the session holds none, it is NULL.
func (s slots) ofHeld(expression string) string {
	return "(select " + expression + " from " + s.held("limit 1 ") + ")"
}

// forsake is [Forsake] for whatever slots the session holds.
func (s slots) forsake() Message {
	m := One(Rollback)
	m.add("SELECT", "select "+s.call(Unlock)+" from "+s.held(""))
	return m
}
