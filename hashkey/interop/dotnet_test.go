package interop_test

import (
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

const hashed = "hashed"

// Keys of names that need no hash, computed bit by bit in another language from
// the format that the library documents.
var dotnetNames = map[string]string{
	"\x00":              "16777215,-1",
	"\x7f":              "-16777217,-1",
	"123456789":         "1657379654,-1382303630", // nine characters leave no room for ones
	"abcdefghi":         "-1014292916,-1179391790",
	"deadbeef":          "-912847284,1500702335", // too short to be hexadecimal
	"0000000000000001":  "1",
	"FFFFFFFFffffffff":  "-1",
	"8000000000000000":  "-9223372036854775808",
	"7fffffffffffffff":  "9223372036854775807",
	"00000001,ffffffff": "1,-1",
	"80000000,7FFFFFFF": "-2147483648,2147483647",
	"00000001;ffffffff": hashed,
	"0000001,ffffffff":  hashed, // sixteen characters, one of them a comma
	"+000000000000001":  hashed,
	" 000000000000001":  hashed,
	"0x00000000000001":  hashed,
	"0_00000000000001":  hashed,
	"000000000000000g":  hashed,
	"00000000000000001": hashed,
	"0000000,0ffffffff": hashed,
	"1234567890":        hashed,
	"é":                 hashed, // one UTF-16 unit, but no ASCII
	"ünïcödé":           hashed,
	"\u0080":            hashed,
	"１２３４５６７８１２３４５６７８": hashed, // digits, but of full width
}

func TestDistributedLockFormats(t *testing.T) {
	for name, want := range dotnetNames {
		exact, err := interop.DistributedLockExact(name)
		if refused := err != nil; refused != (want == hashed) {
			t.Errorf("DistributedLockExact(%q) = %v, %v", name, exact, err)
		}
		key, err := interop.DistributedLock(name)
		if err != nil {
			t.Errorf("DistributedLock(%q): %v", name, err)
		}
		if want == hashed {
			if _, _, isPair := key.Pair(); isPair {
				t.Errorf("DistributedLock(%q) = %v, want a bigint", name, key)
			}
			continue
		}
		if key != exact {
			t.Errorf("DistributedLock(%q) = %v, but without hashing %v", name, key, exact)
		}
		if got := number(key); got != want {
			t.Errorf("DistributedLock(%q) = %s, want %s", name, got, want)
		}
	}
}

// The first eight bytes of Python's hashlib.sha1.
func TestDistributedLockHashes(t *testing.T) {
	for name, want := range map[string]string{
		"1234567890": "-768901973204815103",
		"é":          "-9173619709315246657",
	} {
		key, err := interop.DistributedLock(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := number(key); got != want {
			t.Errorf("DistributedLock(%q) = %s, want %s", name, got, want)
		}
	}
}

func TestDistributedLockRefuses(t *testing.T) {
	for _, name := range []string{"\xff", "\x80", "a\xc3", strings.Repeat("a", 10) + "\xed\xa0\x80"} {
		if key, err := interop.DistributedLock(name); err == nil || key != (hashkey.Key{}) {
			t.Errorf("DistributedLock(%q) = %v, %v, want an error", name, key, err)
		}
	}
	_, err := interop.DistributedLockExact("some-lock-name")
	if err == nil || !strings.Contains(err.Error(), `"some-lock-name"`) {
		t.Errorf("the error %q does not name the name", err)
	}
}
