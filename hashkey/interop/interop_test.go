package interop_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

// schemes are the functions under test, by their names in key-vectors.tsv.
var schemes = map[string]func(name string) (hashkey.Key, error){
	"xxhash64":                infallible(hashkey.Name), // to compare with
	"npm-advisory-lock":       infallible(interop.AdvisoryLock),
	"java31":                  infallible(interop.JavaString),
	"pg-hashtext":             infallible(interop.HashText),
	"pg-hashtextextended-0":   infallible(func(name string) hashkey.Key { return interop.HashTextExtended(name, 0) }),
	"rust-sqlx":               infallible(interop.SQLx),
	"django-pglock":           infallible(interop.DjangoPGLock),
	"ruby-with-advisory-lock": infallible(interop.WithAdvisoryLock),
	"dotnet-distributedlock":  interop.DistributedLock,
	"golang-migrate":          golangMigrate,
}

func infallible(scheme func(string) hashkey.Key) func(string) (hashkey.Key, error) {
	return func(name string) (hashkey.Key, error) { return scheme(name), nil }
}

func golangMigrate(name string) (hashkey.Key, error) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return hashkey.Key{}, fmt.Errorf("%q is not database/schema/table", name)
	}
	return interop.GolangMigrate(parts[0], parts[1], parts[2]), nil
}

// A vector is a key computed by the system that the scheme is from.
type vector struct{ scheme, name, key string }

func vectors(tb testing.TB) []vector {
	tb.Helper()
	text, err := os.ReadFile("testdata/key-vectors.tsv")
	if err != nil {
		tb.Fatal(err)
	}
	var all []vector
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")[1:] {
		fields := strings.Split(line, "\t")
		if len(fields) != 3 {
			tb.Fatalf("testdata/key-vectors.tsv: %d fields in %q", len(fields), line)
		}
		all = append(all, vector{fields[0], fields[1], fields[2]})
	}
	return all
}

// number writes a key as the vectors do.
func number(key hashkey.Key) string {
	if class, object, ok := key.Pair(); ok {
		return fmt.Sprintf("%d,%d", class, object)
	}
	return fmt.Sprint(key.Int64())
}

func TestKnownAnswers(t *testing.T) {
	tested := make(map[string]bool)
	for _, v := range vectors(t) {
		scheme, ok := schemes[v.scheme]
		if !ok {
			t.Errorf("no function for the scheme %s", v.scheme)
			continue
		}
		tested[v.scheme] = true
		key, err := scheme(v.name)
		if err != nil {
			t.Errorf("%s of %q: %v", v.scheme, v.name, err)
		} else if got := number(key); got != v.key {
			t.Errorf("%s of %q = %s, want %s", v.scheme, v.name, got, v.key)
		}
	}
	for scheme := range schemes {
		if !tested[scheme] {
			t.Errorf("no vector for the scheme %s", scheme)
		}
	}
}

func TestStringShowsTheName(t *testing.T) {
	for _, v := range vectors(t) {
		key, err := schemes[v.scheme](v.name)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%q (%s)", v.name, strings.ReplaceAll(v.key, ",", ", "))
		if got := key.String(); got != want {
			t.Errorf("%s: String() = %s, want %s", v.scheme, got, want)
		}
	}
}

func TestWithAdvisoryLockNumbers(t *testing.T) {
	got := make(map[string]string)
	for _, id := range []int64{0, 42, -1, 1<<31 + 5, -1 << 31, 1<<63 - 1} {
		got[fmt.Sprint(id)] = number(interop.WithAdvisoryLockID(id))
	}
	got[`"42"`] = number(interop.WithAdvisoryLock("42"))
	// Ruby's & takes a negative Integer for two's complement without an end.
	want := map[string]string{
		"0":                   "0,0",
		"42":                  "42,0",
		"-1":                  "2147483647,0",
		"2147483653":          "5,0",
		"-2147483648":         "0,0",
		"9223372036854775807": "2147483647,0",
		`"42"`:                "841265288,0", // zlib.crc32(b"42") & 0x7fffffff
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
