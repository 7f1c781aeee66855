package interop_test

import (
	"math/big"
	"testing"
	"unicode/utf16"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

// The polynomial of java.lang.String.hashCode, summed without wrap-around.
func FuzzJavaString(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		sum := new(big.Int)
		for _, unit := range utf16.Encode([]rune(name)) {
			sum.Mul(sum, big.NewInt(31))
			sum.Add(sum, big.NewInt(int64(unit)))
		}
		low := new(big.Int).And(sum, big.NewInt(1<<32-1))
		if got, want := interop.JavaString(name).Int64(), int64(int32(low.Uint64())); got != want {
			t.Errorf("JavaString(%q) = %d, want %d", name, got, want)
		}
	})
}

// PostgreSQL's two functions are one hash, of which the first is the low half
// where the seed is 0.
func FuzzHashText(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		short, long := interop.HashText(name), interop.HashTextExtended(name, 0)
		if int32(short.Int64()) != int32(long.Int64()) {
			t.Errorf("HashText(%q) = %v, HashTextExtended %v", name, short, long)
		}
	})
}
