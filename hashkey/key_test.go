package hashkey_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
)

// vectors reads testdata/xxhash64.tsv, computed by another implementation.
func vectors(tb testing.TB) map[string]int64 {
	tb.Helper()
	text, err := os.ReadFile("testdata/xxhash64.tsv")
	if err != nil {
		tb.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	keys := make(map[string]int64)
	for _, line := range lines[1:] {
		name, number, ok := strings.Cut(line, "\t")
		if !ok {
			tb.Fatalf("testdata/xxhash64.tsv: no tab in %q", line)
		}
		id, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			tb.Fatalf("testdata/xxhash64.tsv: %v", err)
		}
		keys[name] = id
	}
	return keys
}

func TestNameKnownAnswers(t *testing.T) {
	want := vectors(t)
	if len(want) < 4 {
		t.Fatalf("only %d vectors", len(want))
	}
	got := make(map[string]int64)
	for name := range want {
		got[name] = hashkey.Name(name).Int64()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Name (-want +got):\n%s", diff)
	}
}

// The namespaced numbers were computed by an independent implementation and are as much a promise as the
// vectors.
func TestNamespaceKnownAnswers(t *testing.T) {
	for _, test := range []struct {
		space hashkey.Namespace
		name  string
		want  int64
	}{
		{"orders", "42", 6696531377227644590},
		{"orders", "", -8386937118691952852},
		{"", "42", -6767930839390583070},
	} {
		if got := test.space.Name(test.name).Int64(); got != test.want {
			t.Errorf("Namespace(%q).Name(%q) = %d, want %d", test.space, test.name, got, test.want)
		}
	}
}

func TestNamespaceIDIsNameOfDigits(t *testing.T) {
	const orders = hashkey.Namespace("orders")
	for _, id := range []int64{0, 1, -1, 42, math.MinInt64, math.MaxInt64} {
		if got, want := orders.ID(id), orders.Name(strconv.FormatInt(id, 10)); got != want {
			t.Errorf("ID(%d) = %v, want %v", id, got, want)
		}
	}
}

func TestNamespacesDoNotOverlap(t *testing.T) {
	// Pasted together with any separator, some of these would be one name.
	keys := []hashkey.Key{
		hashkey.Namespace("a").Name("b/c"),
		hashkey.Namespace("a/b").Name("c"),
		hashkey.Namespace("").Name("a/b/c"),
		hashkey.Name("a/b/c"),
		hashkey.Namespace("ab").Name("c"),
		hashkey.Namespace("a").Name("bc"),
	}
	slices.SortFunc(keys, hashkey.Compare)
	if n := len(slices.CompactFunc(slices.Clone(keys), sameLock)); n != len(keys) {
		t.Errorf("%d keys for %d names: %v", n, len(keys), keys)
	}
}

func sameLock(a, b hashkey.Key) bool { return hashkey.Compare(a, b) == 0 }

func TestPairRoundTrip(t *testing.T) {
	ends := []int32{math.MinInt32, -1, 0, 1, math.MaxInt32}
	for _, class := range ends {
		for _, object := range ends {
			c, o, ok := hashkey.Pair(class, object).Pair()
			if !ok || c != class || o != object {
				t.Errorf("Pair(%d, %d).Pair() = %d, %d, %t", class, object, c, o, ok)
			}
		}
	}
	if c, o, ok := hashkey.Int64(1 << 32).Pair(); ok || c != 0 || o != 0 {
		t.Errorf("Int64(1<<32).Pair() = %d, %d, %t, want 0, 0, false", c, o, ok)
	}
	if got, want := hashkey.Pair(-1, -2).Int64(), int64(-1)<<32|0xfffffffe; got != want {
		t.Errorf("Pair(-1, -2).Int64() = %d, want %d", got, want)
	}
}

func TestCompare(t *testing.T) {
	ordered := []hashkey.Key{
		hashkey.Int64(math.MinInt64),
		hashkey.Int64(-1),
		{},
		hashkey.Int64(math.MaxInt64),
		hashkey.Pair(math.MinInt32, 0),
		hashkey.Pair(-1, -1),
		hashkey.Pair(0, 0),
		hashkey.Pair(0, -1),
		hashkey.Pair(math.MaxInt32, 1),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := sign(hashkey.Compare(a, b)), sign(i-j); got != want {
				t.Errorf("Compare(%v, %v) = %d, want %d", a, b, got, want)
			}
		}
	}
	name := hashkey.Name("a")
	if hashkey.Compare(name, hashkey.Int64(name.Int64())) != 0 {
		t.Error("a name and its number are one lock, but Compare tells them apart")
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

func TestString(t *testing.T) {
	for want, key := range map[string]hashkey.Key{
		"0":                                 {},
		"-7":                                hashkey.Int64(-7),
		"(1, -2)":                           hashkey.Pair(1, -2),
		`"a" (-3292477735350538661)`:        hashkey.Name("a"),
		`"" (-1205034819632174695)`:         hashkey.Name(""),
		`"orders/42" (6696531377227644590)`: hashkey.Namespace("orders").ID(42),
		`"nightly" (7)`:                     hashkey.Int64(7).Named("nightly"),
		`"nightly" (1, -2)`:                 hashkey.Pair(1, -2).Named("nightly"),
		`"" (1, -2)`:                        hashkey.Pair(1, -2).Named("nightly").Named(""),
		`"answer" (6696531377227644590)`:    hashkey.Namespace("orders").ID(42).Named("answer"),
		fmt.Sprintf(`"a\nb" (%d)`, sum64("a\nb")): hashkey.Name("a\nb"),
		fmt.Sprintf(`"\xff" (%d)`, sum64("\xff")): hashkey.Name("\xff"),
	} {
		if got := key.String(); got != want {
			t.Errorf("String() = %s, want %s", got, want)
		}
	}
}

func sum64(s string) int64 { return int64(xxh64([]byte(s), 0)) }

func TestNamedIsTheSameLock(t *testing.T) {
	for _, key := range []hashkey.Key{
		{},
		hashkey.Int64(math.MinInt64),
		hashkey.Pair(0, 0),
		hashkey.Pair(-1, 1),
		hashkey.Name("a"),
		hashkey.Namespace("orders").ID(42),
	} {
		named := key.Named("another name")
		if hashkey.Compare(key, named) != 0 || hashkey.Compare(named, key) != 0 {
			t.Errorf("%v and %v are not one lock", key, named)
		}
		if key.Int64() != named.Int64() {
			t.Errorf("Int64() = %d, want %d", named.Int64(), key.Int64())
		}
		class, object, isPair := key.Pair()
		if c, o, ok := named.Pair(); c != class || o != object || ok != isPair {
			t.Errorf("Pair() = %d, %d, %t, want %d, %d, %t", c, o, ok, class, object, isPair)
		}
	}
	if bigint, pair := hashkey.Int64(1<<32|2).Named("a"), hashkey.Pair(1, 2).Named("a"); bigint == pair {
		t.Errorf("%v == %v", bigint, pair)
	}
}

func TestNameAndNamespace(t *testing.T) {
	for _, test := range []struct {
		key         hashkey.Key
		space, name string
	}{
		{hashkey.Key{}, "", ""},
		{hashkey.Int64(7), "", ""},
		{hashkey.Pair(1, -2), "", ""},
		{hashkey.Name("nightly"), "", "nightly"},
		{hashkey.Name(""), "", ""},
		{hashkey.Name("orders/42"), "", "orders/42"},
		{hashkey.Namespace("orders").Name("a/b"), "orders", "a/b"},
		{hashkey.Namespace("orders").ID(-42), "orders", "-42"},
		{hashkey.Namespace("orders").Name(""), "orders", ""},
		{hashkey.Namespace("").Name("42"), "", "42"},
		{hashkey.Int64(7).Named("nightly"), "", "nightly"},
		{hashkey.Pair(1, -2).Named("nightly"), "", "nightly"},
		{hashkey.Namespace("orders").ID(42).Named("answer"), "", "answer"},
	} {
		if space, name := test.key.Namespace(), test.key.Name(); space != test.space || name != test.name {
			t.Errorf("%v: Namespace() = %q, Name() = %q, want %q, %q", test.key, space, name, test.space, test.name)
		}
	}
}

// Made again from what it says of itself, a key is equal to the first.
func TestNameAndNamespaceMakeTheSameKey(t *testing.T) {
	for _, name := range []string{"nightly", "", "a/b", "\xff"} {
		if k := hashkey.Name(name); hashkey.Name(k.Name()) != k {
			t.Errorf("Name(%q) = %v, not %v", k.Name(), hashkey.Name(k.Name()), k)
		}
		k := hashkey.Namespace("orders").Name(name)
		if again := hashkey.Namespace(k.Namespace()).Name(k.Name()); again != k {
			t.Errorf("Namespace(%q).Name(%q) = %v, not %v", k.Namespace(), k.Name(), again, k)
		}
	}
}

func TestNameDoesNotAllocate(t *testing.T) {
	names := strings.Fields("some-lock-name a dbmigration")
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range names {
			sink = hashkey.Name(name)
			sink = hashkey.Int64(int64(len(name)))
			sink = hashkey.Namespace("orders").Name(name)
			sink = hashkey.Pair(1, 2).Named(name)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

var sink hashkey.Key
