package interop

import (
	"unicode/utf16"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// JavaString returns the key of Java's name.hashCode(), which many JavaScript
// helpers compute too: h = 31*h + unit over the UTF-16 code units, wrapped to
// an int32, as a bigint.
//
// It collides soon, even for short names: "Aa" and "BB" are one lock.
func JavaString(name string) hashkey.Key {
	var h int32
	for _, unit := range utf16.Encode([]rune(name)) {
		h = 31*h + int32(unit)
	}
	return hashkey.Int64(int64(h)).Named(name)
}
