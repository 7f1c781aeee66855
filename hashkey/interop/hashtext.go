package interop

import (
	"encoding/binary"
	"math/bits"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// HashText returns the key of "select pg_advisory_lock(hashtext(name))": a
// bigint that holds an int32.
//
// It equals the server's where the database is in UTF-8, the machine is
// little-endian, as nearly all are, and the argument has a deterministic
// collation, as the default one of every database is. PostgreSQL's manual
// promises nothing about the function.
func HashText(name string) hashkey.Key {
	_, low := lookup3(name, 0)
	return hashkey.Int64(int64(int32(low))).Named(name)
}

// HashTextExtended returns the key of
// "select pg_advisory_lock(hashtextextended(name, seed))": a bigint. What
// [HashText] says of other encodings and machines holds here too. The function
// came with PostgreSQL 11.
func HashTextExtended(name string, seed int64) hashkey.Key {
	high, low := lookup3(name, uint64(seed))
	return hashkey.Int64(int64(uint64(high)<<32 | uint64(low))).Named(name)
}

// lookup3 is Bob Jenkins's hash of that name, with the start values of
// PostgreSQL's hash_bytes and hash_bytes_extended. It returns the last two of
// the three words of its state.
func lookup3(s string, seed uint64) (b, c uint32) {
	state := newJenkins(len(s), seed)
	for len(s) >= 12 {
		state.add(s[:12])
		state.mix()
		s = s[12:]
	}
	var tail [12]byte
	copy(tail[:], s)
	state.addTail(tail)
	state.final()
	return state.b, state.c
}

type jenkins struct{ a, b, c uint32 }

func newJenkins(length int, seed uint64) jenkins {
	start := 0x9e3779b9 + uint32(length) + 3923095
	j := jenkins{start, start, start}
	if seed != 0 {
		j.a += uint32(seed >> 32)
		j.b += uint32(seed)
		j.mix()
	}
	return j
}

func (j *jenkins) add(block string) {
	b := []byte(block)
	j.a += binary.LittleEndian.Uint32(b)
	j.b += binary.LittleEndian.Uint32(b[4:])
	j.c += binary.LittleEndian.Uint32(b[8:])
}

// addTail adds the last 0 to 11 bytes, filled up with zeros. The lowest byte
// of c is left alone: it stands for the length, which newJenkins has added.
func (j *jenkins) addTail(b [12]byte) {
	j.a += binary.LittleEndian.Uint32(b[:])
	j.b += binary.LittleEndian.Uint32(b[4:])
	j.c += binary.LittleEndian.Uint32(b[8:]) << 8
}

func (j *jenkins) mix() {
	a, b, c := j.a, j.b, j.c
	a -= c
	a ^= bits.RotateLeft32(c, 4)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 6)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 8)
	b += a
	a -= c
	a ^= bits.RotateLeft32(c, 16)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 19)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 4)
	b += a
	j.a, j.b, j.c = a, b, c
}

func (j *jenkins) final() {
	a, b, c := j.a, j.b, j.c
	c ^= b
	c -= bits.RotateLeft32(b, 14)
	a ^= c
	a -= bits.RotateLeft32(c, 11)
	b ^= a
	b -= bits.RotateLeft32(a, 25)
	c ^= b
	c -= bits.RotateLeft32(b, 16)
	a ^= c
	a -= bits.RotateLeft32(c, 4)
	b ^= a
	b -= bits.RotateLeft32(a, 14)
	c ^= b
	c -= bits.RotateLeft32(b, 24)
	j.a, j.b, j.c = a, b, c
}
