package hashkey_test

import (
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// The numbers were computed by an implementation of XXH64 in another language.
func TestSlot(t *testing.T) {
	for _, test := range []struct {
		key    hashkey.Key
		slot   int
		id     int64
		string string
	}{
		{hashkey.Int64(7), 0, 7, "7"},
		{hashkey.Int64(7), 1, 1591497731106344414, `"7#1" (1591497731106344414)`},
		{hashkey.Name("mail"), 0, hashkey.Name("mail").Int64(), hashkey.Name("mail").String()},
		{hashkey.Name("mail"), 2, -7268913100799724958, `"mail#2" (-7268913100799724958)`},
		{hashkey.Namespace("jobs").Name("mail"), 3, -7253024885193965997, `"jobs/mail#3" (-7253024885193965997)`},
	} {
		slot := test.key.Slot(test.slot)
		if slot.Int64() != test.id || slot.String() != test.string {
			t.Errorf("slot %d of %v is %v, want %s", test.slot, test.key, slot, test.string)
		}
	}
	if pair := hashkey.Pair(1, 2); pair.Slot(0) != pair {
		t.Errorf("slot 0 of %v is %v", pair, pair.Slot(0))
	}
	slot := hashkey.Pair(1, 2).Slot(1)
	if _, _, ok := slot.Pair(); !ok || hashkey.Compare(slot, hashkey.Int64(slot.Int64())) == 0 {
		t.Errorf("%v is not in the key space of pairs", slot)
	}
}
