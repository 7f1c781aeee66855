package main

import (
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

func TestApplicationName(t *testing.T) {
	for name, want := range map[string]string{
		"":                              "withlock",
		"job":                           "withlock job",
		"a&b -c":                        "withlock a&b -c",
		strings.Repeat("x", 54):         "withlock " + strings.Repeat("x", 54),
		strings.Repeat("x", 55):         "withlock " + strings.Repeat("x", 54),
		"café":                          "withlock caf&AOk-",
		"é&é":                           "withlock &AOk-&-&AOk-",
		"日本語":                           "withlock &ZeVnLIqe-", // the example of RFC 3501
		"😀":                             "withlock &2D3eAA-",
		"one\ntwo":                      "withlock one&AAo-two",
		strings.Repeat("\x80", 100)[:1]: "withlock \x80",
	} {
		got := applicationName(name)
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func FuzzApplicationName(f *testing.F) {
	for _, name := range []string{"job", "café", "a&b", "&-", "&AOk-", "日本語&x", "😀", "\x80", "&é"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		encoded := encodeName(name)
		if decoded, ok := decodeName(encoded); ok && decoded != name && encodeName(decoded) != encoded {
			t.Errorf("%q: %q, and back %q", name, encoded, decoded)
		}
		if key := hashkey.Name(name); len(encoded) < 50 && nameOf(hashkey.Int64(key.Int64()), applicationPrefix+encoded) != key {
			t.Errorf("%q: %q does not lead to it", name, encoded)
		}
	})
}

func TestNameOf(t *testing.T) {
	key, pair := hashkey.Name("job"), interop.AdvisoryLock("job")
	for _, test := range []struct {
		key         hashkey.Key
		application string
		want        hashkey.Key
	}{
		{hashkey.Int64(key.Int64()), "withlock job", key},
		{hashkey.Int64(key.Int64()), "withlock other", hashkey.Int64(key.Int64())},
		{hashkey.Int64(key.Int64()), "job", hashkey.Int64(key.Int64())},
		{hashkey.Pair(first(pair)), "withlock job", pair},
		{hashkey.Int64(key.Slot(3).Int64()), "withlock job", key.Slot(3)},
		{hashkey.Int64(turnKey(key).Int64()), "withlock job", turnKey(key).Named("turn of job")},
	} {
		if got := nameOf(test.key, test.application); got != test.want {
			t.Errorf("%v of %q: %v, want %v", test.key, test.application, got, test.want)
		}
	}
}

func first(key hashkey.Key) (int32, int32) {
	class, object, _ := key.Pair()
	return class, object
}
