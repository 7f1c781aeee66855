package interop_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"math/big"
	"math/bits"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

// references compute each scheme's key once more, by other means, in the form
// of [number].
var references = map[string]func(name string) string{
	"npm-advisory-lock": func(name string) string {
		sum := sha256.Sum256([]byte(name))
		return fmt.Sprintf("%d,%d", int32(little(sum[0:4])), int32(little(sum[4:8])))
	},
	"django-pglock": func(name string) string {
		sum := sha256.Sum256([]byte(name))
		return fmt.Sprint(int64(little(sum[:8])))
	},
	"rust-sqlx": func(name string) string {
		secret := mac(make([]byte, sha256.Size), []byte(name)) // RFC 5869
		return fmt.Sprint(int64(little(mac(secret, []byte("SQLx (Rust) Postgres advisory lock\x01"))[:8])))
	},
	"ruby-with-advisory-lock": func(name string) string { return fmt.Sprintf("%d,0", crc32(name)&0x7fffffff) },
	"dotnet-distributedlock":  distributedLock,
	"java31":                  javaString,
	"pg-hashtext":             func(name string) string { return fmt.Sprint(int32(hashBytes(name, 0))) },
	"pg-hashtextextended-0":   func(name string) string { return fmt.Sprint(int64(hashBytes(name, 0))) },
}

func FuzzSchemes(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.name)
	}
	for name := range dotnetNames {
		f.Add(name)
	}
	f.Add("\xff")
	f.Add("\x80")
	f.Add("123456789012") // a block of lookup3, and one more than that
	f.Add("1234567890123")
	f.Fuzz(func(t *testing.T, name string) {
		for scheme, reference := range references {
			key, err := schemes[scheme](name)
			if want := scheme == "dotnet-distributedlock" && !utf8.ValidString(name); want || err != nil {
				if !want || err == nil {
					t.Errorf("%s of %q: error %v", scheme, name, err)
				}
				continue
			}
			if got, want := number(key), reference(name); got != want {
				t.Errorf("%s of %q = %s, want %s", scheme, name, got, want)
			}
			if key.Name() != name {
				t.Errorf("%s of %q is named %q", scheme, name, key.Name())
			}
		}
	})
}

func FuzzHashTextExtended(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.name, int64(0))
		f.Add(v.name, int64(-1)<<40)
		f.Add(v.name, int64(7))
	}
	f.Fuzz(func(t *testing.T, name string, seed int64) {
		if got, want := interop.HashTextExtended(name, seed).Int64(), int64(hashBytes(name, uint64(seed))); got != want {
			t.Errorf("HashTextExtended(%q, %d) = %d, want %d", name, seed, got, want)
		}
	})
}

func FuzzGolangMigrate(f *testing.F) {
	f.Add("postgres", "public", "schema_migrations")
	f.Add("/mydb", "\x00", "é")
	f.Fuzz(func(t *testing.T, database, schema, table string) {
		product := new(big.Int).Mul(big.NewInt(int64(crc32(schema+"\x00"+table+"\x00"+database))), big.NewInt(1486364155))
		want := product.Mod(product, big.NewInt(1<<32)).Int64()
		if got := interop.GolangMigrate(database, schema, table).Int64(); got != want {
			t.Errorf("GolangMigrate(%q, %q, %q) = %d, want %d", database, schema, table, got, want)
		}
	})
}

// little reads up to eight bytes, the lowest first.
func little(b []byte) (n uint64) {
	for i, c := range b {
		n |= uint64(c) << (8 * i)
	}
	return n
}

func mac(key, text []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return h.Sum(nil)
}

// crc32 divides by the polynomial bit by bit.
func crc32(text string) uint32 {
	crc := ^uint32(0)
	for _, c := range []byte(text) {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0xEDB88320*(crc&1)
		}
	}
	return ^crc
}

// javaString is the polynomial of java.lang.String.hashCode, summed without
// wrap-around.
func javaString(name string) string {
	sum := new(big.Int)
	for _, unit := range utf16.Encode([]rune(name)) {
		sum.Mul(sum, big.NewInt(31))
		sum.Add(sum, big.NewInt(int64(unit)))
	}
	low := new(big.Int).And(sum, big.NewInt(1<<32-1))
	return fmt.Sprint(int32(low.Uint64()))
}

var (
	hex16 = regexp.MustCompile(`^[0-9A-Fa-f]{16}$`)
	hex8s = regexp.MustCompile(`^[0-9A-Fa-f]{8},[0-9A-Fa-f]{8}$`)
	ascii = regexp.MustCompile(`^[\x00-\x7f]{0,9}$`)
)

// distributedLock writes the 64 bits of a short name as text.
func distributedLock(name string) string {
	switch {
	case ascii.MatchString(name):
		var b strings.Builder
		for _, c := range []byte(name) {
			fmt.Fprintf(&b, "%07b", c)
		}
		b.WriteString("0")
		b.WriteString(strings.Repeat("1", 64-b.Len()))
		n, _ := new(big.Int).SetString(b.String(), 2)
		return fmt.Sprintf("%d,%d", int32(n.Uint64()>>32), int32(n.Uint64()))
	case hex16.MatchString(name):
		n, _ := new(big.Int).SetString(name, 16)
		return fmt.Sprint(int64(n.Uint64()))
	case hex8s.MatchString(name):
		n, _ := new(big.Int).SetString(strings.Replace(name, ",", "", 1), 16)
		return fmt.Sprintf("%d,%d", int32(n.Uint64()>>32), int32(n.Uint64()))
	}
	sum := sha1.Sum([]byte(name))
	return fmt.Sprint(int64(little(sum[:8])))
}

// hashBytes is PostgreSQL's hash_bytes_extended, byte by byte, as the server
// does it where words are not aligned. Its low half is hash_bytes.
func hashBytes(text string, seed uint64) uint64 {
	k := []byte(text)
	var s [3]uint32
	for i := range s {
		s[i] = 0x9e3779b9 + uint32(len(k)) + 3923095
	}
	if seed != 0 {
		s[0] += uint32(seed >> 32)
		s[1] += uint32(seed)
		mixWords(&s)
	}
	for ; len(k) >= 12; k = k[12:] {
		for i, c := range k[:12] {
			s[i/4] += uint32(c) << (8 * (i % 4))
		}
		mixWords(&s)
	}
	for i, c := range k {
		if i >= 8 {
			i++ // the lowest byte of the third word is for the length
		}
		s[i/4] += uint32(c) << (8 * (i % 4))
	}
	for _, step := range []struct{ to, by, rotation int }{ // final() of hashfn.c
		{2, 1, 14}, {0, 2, 11}, {1, 0, 25}, {2, 1, 16}, {0, 2, 4}, {1, 0, 14}, {2, 1, 24},
	} {
		s[step.to] ^= s[step.by]
		s[step.to] -= bits.RotateLeft32(s[step.by], step.rotation)
	}
	return uint64(s[1])<<32 | uint64(s[2])
}

// mixWords is mix() of hashfn.c: each step takes the words in turn.
func mixWords(s *[3]uint32) {
	for i, rotation := range []int{4, 6, 8, 16, 19, 4} {
		a, b, c := i%3, (i+1)%3, (i+2)%3
		s[a] -= s[c]
		s[a] ^= bits.RotateLeft32(s[c], rotation)
		s[c] += s[b]
	}
}
