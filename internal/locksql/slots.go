package locksql

import (
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
