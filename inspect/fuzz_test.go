package inspect_test

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
)

// A key is found in pg_locks under the address it has there, whatever its
// number: the halves are oids, which have no sign.
func FuzzAddress(f *testing.F) {
	for _, n := range []int64{0, 1, -1, math.MinInt64, math.MaxInt64, 1 << 31, 1 << 32, -1 << 31, 0xffffffff} {
		f.Add(n, false)
		f.Add(n, true)
	}
	f.Fuzz(func(t *testing.T, n int64, pair bool) {
		key, space := hashkey.Int64(n), 1
		if pair {
			key, space = hashkey.Pair(int32(n>>32), int32(n)), 2
		}
		high, low := uint64(n)>>32, uint64(n)&math.MaxUint32
		if got, want := inspect.Addresses([]hashkey.Key{key, key}), fmt.Sprintf("%d.%d.%d %[1]d.%d.%d", high, low, space); got != want {
			t.Errorf("%v is at %q, want %q", key, got, want)
		}
		if got := inspect.KeyAt(int64(high), int64(low), space); got != key {
			t.Errorf("at %d, %d, %d is %v, want %v", high, low, space, got, key)
		}
	})
}

// Process ids are read in order, each once, or the text is refused.
func FuzzPIDs(f *testing.F) {
	for _, text := range []string{"", "7", "9 7 9", " 1\t2\n", "x", "1 -1", "2147483647", "2147483648", "1.5", "{1,2}", "0x7", "7 \u00a0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := inspect.PIDs(text)
		var want []int32
		for field := range strings.FieldsSeq(text) {
			n, ok := new(big.Int).SetString(field, 10)
			if !ok || !n.IsInt64() || n.Int64() != int64(int32(n.Int64())) {
				if err == nil {
					t.Errorf("%q: %v, and no error for %q", text, got, field)
				}
				return
			}
			want = append(want, int32(n.Int64()))
		}
		slices.Sort(want)
		if want = slices.Compact(want); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	})
}
