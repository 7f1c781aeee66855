package integration_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// newRand returns random numbers that the test's log can bring back.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("random seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// randomName returns UTF-8 of exactly n bytes, in characters of every length
// but U+0000, which PostgreSQL's text cannot hold.
func randomName(r *rand.Rand, n int) string {
	const widest = 4
	name := make([]byte, 0, n+widest)
	for len(name) < n {
		limit := [...]rune{utf8.RuneSelf, 0x800, 0x10000, utf8.MaxRune + 1}[r.IntN(widest)]
		c := 1 + r.Int32N(limit-1)
		if utf8.ValidRune(c) && len(name)+utf8.RuneLen(c) <= n {
			name = utf8.AppendRune(name, c)
		}
	}
	return string(name)
}

func randomNames(r *rand.Rand, count, longest int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = randomName(r, i%(longest+1))
	}
	return names
}

// Every length up to 300 bytes comes up 33 times: the hash has a case for each
// length of the last, incomplete block.
func TestHashTextAgreesWithTheServer(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	names := randomNames(r, 10_000, 300)
	seeds := make([]int64, len(names))
	for i := range seeds {
		seeds[i] = int64(r.Uint64()) >> r.IntN(64) // of every size and sign
	}
	rows, err := newDB(t).Query(`select name, seed, hashtext(name), hashtextextended(name, seed)
		from unnest($1::text[], $2::bigint[]) as input (name, seed)`, names, seeds)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	compared := 0
	for ; rows.Next(); compared++ {
		var name string
		var seed, short, long int64
		if err := rows.Scan(&name, &seed, &short, &long); err != nil {
			t.Fatal(err)
		}
		if got := interop.HashText(name); got.Int64() != short {
			t.Errorf("HashText(%q) = %d, want %d", name, got.Int64(), short)
		}
		if got := interop.HashTextExtended(name, seed); got.Int64() != long {
			t.Errorf("HashTextExtended(%q, %d) = %d, want %d", name, seed, got.Int64(), long)
		}
	}
	if err := rows.Err(); err != nil || compared != len(names) {
		t.Errorf("compared %d of %d names: %v", compared, len(names), err)
	}
}

// A service moves from one scheme to another in two deployments. During each
// the old and the new processes exclude each other.
func TestMovingToAnotherSchemeLeavesNoGap(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	locker := xactlock.New(db)
	before := []hashkey.Key{interop.AdvisoryLock("some-lock-name")}
	after := []hashkey.Key{hashkey.Name("some-lock-name")}
	both := slices.Concat(before, after)
	tries := func(keys []hashkey.Key) error {
		return locker.With(xactlock.Options{Wait: 50 * time.Millisecond}).WithTxAll(t.Context(), keys, nothing)
	}
	for _, deployment := range [][2][]hashkey.Key{{before, both}, {both, after}} {
		for i, holds := range deployment {
			whileHeld(t, locker, holds, func() {
				if err := tries(deployment[1-i]); !errors.Is(err, xactlock.ErrNotAcquired) {
					t.Errorf("holding %v, asking for %v: %v", holds, deployment[1-i], err)
				}
			})
		}
	}
	noTrace(t, db)
}

// whileHeld runs f while somebody else holds the keys.
func whileHeld(t *testing.T, locker *xactlock.Locker, keys []hashkey.Key, f func()) {
	t.Helper()
	for _, key := range keys {
		h := hold(t, locker, key)
		defer func() {
			if err := h.release(); err != nil {
				t.Error(err)
			}
		}()
	}
	f()
}
