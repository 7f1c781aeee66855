package hashkey_test

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// The keys of names and of slots are those that an XXH64 of the test's own has.
func FuzzName(f *testing.F) {
	for name := range vectors(f) {
		f.Add("orders", name, 1)
	}
	f.Add("\x00", "\xff\xfe", -1)
	f.Add("", "12345678901234567890123456789012", 0) // a stripe of 32 bytes
	f.Add("orders", "123456789012345678901234567890123456789012345678", 1000)
	f.Fuzz(func(t *testing.T, space, name string, slot int) {
		ns := hashkey.Namespace(space)
		for _, test := range []struct {
			what string
			key  hashkey.Key
			want uint64
		}{
			{"Name", hashkey.Name(name), xxh64([]byte(name), 0)},
			{"Namespace.Name", ns.Name(name), xxh64([]byte(name), xxh64([]byte(space), 0))},
			{"Namespace.ID", ns.ID(int64(slot)), xxh64([]byte(strconv.Itoa(slot)), xxh64([]byte(space), 0))},
		} {
			if got := test.key.Int64(); got != int64(test.want) {
				t.Errorf("%s of %q, %q: %d, want %d", test.what, space, name, got, int64(test.want))
			}
			checkSlot(t, test.key, slot)
		}
		class, object := int32(len(name)), int32(slot)
		checkSlot(t, hashkey.Pair(class, object), slot)
	})
}

func checkSlot(t *testing.T, key hashkey.Key, slot int) {
	t.Helper()
	want := uint64(key.Int64())
	if slot != 0 {
		b := binary.LittleEndian.AppendUint64(nil, want)
		want = xxh64(binary.LittleEndian.AppendUint64(b, uint64(slot)), 0)
	}
	got := key.Slot(slot)
	_, _, isPair := key.Pair()
	if _, _, stays := got.Pair(); got.Int64() != int64(want) || stays != isPair {
		t.Errorf("%v.Slot(%d) = %v, want %d", key, slot, got, int64(want))
	}
}

// xxh64 is XXH64, written after its specification (Yann Collet's
// xxhash_spec.md), step by step.
func xxh64(b []byte, seed uint64) uint64 {
	const (
		prime1 = 0x9E3779B185EBCA87
		prime2 = 0xC2B2AE3D27D4EB4F
		prime3 = 0x165667B19E3779F9
		prime4 = 0x85EBCA77C2B2AE63
		prime5 = 0x27D4EB2F165667C5
	)
	round := func(acc, lane uint64) uint64 {
		return bits.RotateLeft64(acc+lane*prime2, 31) * prime1
	}
	acc := seed + prime5
	length := uint64(len(b))
	if len(b) >= 32 {
		p := uint64(prime1)
		lanes := [4]uint64{seed + p + prime2, seed + prime2, seed, seed - p}
		for ; len(b) >= 32; b = b[32:] {
			for i := range lanes {
				lanes[i] = round(lanes[i], binary.LittleEndian.Uint64(b[8*i:]))
			}
		}
		acc = bits.RotateLeft64(lanes[0], 1) + bits.RotateLeft64(lanes[1], 7) +
			bits.RotateLeft64(lanes[2], 12) + bits.RotateLeft64(lanes[3], 18)
		for _, lane := range lanes {
			acc = (acc^round(0, lane))*prime1 + prime4
		}
	}
	acc += length
	for ; len(b) >= 8; b = b[8:] {
		acc = bits.RotateLeft64(acc^round(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		acc = bits.RotateLeft64(acc^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		acc = bits.RotateLeft64(acc^uint64(c)*prime5, 11) * prime1
	}
	acc = (acc ^ acc>>33) * prime2
	acc = (acc ^ acc>>29) * prime3
	return acc ^ acc>>32
}

// Bigints come before pairs, and then the numbers count, and names do not. A pair
// has the number that it was made of.
func FuzzCompare(f *testing.F) {
	f.Add(int64(1)<<32, int64(0), true, false)
	f.Add(int64(-1), int64(1), false, false)
	f.Add(int64(7), int64(7), true, true)
	f.Add(int64(7), int64(7), true, false)
	f.Add(int64(math.MinInt64), int64(1), true, true) // whose difference is no int64
	f.Add(int64(1)<<32|0xffffffff, int64(-1), true, true)
	f.Fuzz(func(t *testing.T, m, n int64, mPair, nPair bool) {
		a, b := keyOf(m, mPair), keyOf(n, nPair)
		want := cmp.Compare(m, n)
		switch {
		case nPair && !mPair:
			want = -1
		case mPair && !nPair:
			want = 1
		}
		for _, other := range []hashkey.Key{b, b.Named("b")} {
			got, back := hashkey.Compare(a, other), hashkey.Compare(other, a)
			if sign(got) != want || sign(back) != -want {
				t.Errorf("Compare(%v, %v) = %d, and back %d, want %d", a, other, got, back, want)
			}
		}
		if a.Int64() != m {
			t.Errorf("%v is %d, want %d", a, a.Int64(), m)
		}
	})
}

func keyOf(n int64, pair bool) hashkey.Key {
	if pair {
		return hashkey.Pair(int32(n>>32), int32(n))
	}
	return hashkey.Int64(n)
}
