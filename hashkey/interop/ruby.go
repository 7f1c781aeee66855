package interop

import (
	"hash/crc32"
	"strconv"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// positive keeps the 31 bits that with_advisory_lock keeps.
const positive = 1<<31 - 1

// WithAdvisoryLock returns the key of the Ruby gem with_advisory_lock for a
// String or a Symbol: CRC-32(name) without its top bit, and 0, as a pair.
//
// The gem hashes a String of digits like any other, so "42" here is '42'
// there. A number without quotes it uses as it is: [WithAdvisoryLockID].
//
// The 0 is its environment variable WITH_ADVISORY_LOCK_PREFIX as a number,
// which it is not for most: unset, and set to a word, are 0. Where it begins
// with digits, put that number in:
//
//	crc, _, _ := interop.WithAdvisoryLock("some-lock-name").Pair()
//	key := hashkey.Pair(crc, 17)
func WithAdvisoryLock(name string) hashkey.Key {
	sum := crc32.ChecksumIEEE([]byte(name))
	return hashkey.Pair(int32(sum&positive), 0).Named(name)
}

// WithAdvisoryLockID returns the key of with_advisory_lock for an Integer: the
// number without all but its low 31 bits, and 0, as a pair.
func WithAdvisoryLockID(id int64) hashkey.Key {
	return hashkey.Pair(int32(id&positive), 0).Named(strconv.FormatInt(id, 10))
}
