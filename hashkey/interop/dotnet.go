package interop

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// DistributedLock returns the key of the .NET library DistributedLock.Postgres
// for a name that it may hash: PostgresAdvisoryLockKey(name, allowHashing:
// true), which is also what its IDistributedLockProvider makes of a name. By
// the first rule that fits:
//
//   - up to 9 ASCII characters: 7 bits each, a 0 bit, then 1 bits up to 64,
//     as a pair
//   - 16 hexadecimal digits: the bigint; 8 of them, a comma and 8 more: the
//     pair
//   - any other name: the first little-endian int64 of SHA-1(name), as a bigint
//
// The error is for a name that is not valid UTF-8, which cannot be a .NET
// string.
func DistributedLock(name string) (hashkey.Key, error) {
	if key, err := DistributedLockExact(name); err == nil {
		return key, nil
	}
	if !utf8.ValidString(name) {
		return hashkey.Key{}, fmt.Errorf("interop: %q is not valid UTF-8, so DistributedLock has no such name", name)
	}
	sum := sha1.Sum([]byte(name))
	return hashkey.Int64(int64(binary.LittleEndian.Uint64(sum[:]))).Named(name), nil
}

// DistributedLockExact returns the key of DistributedLock.Postgres for a name
// that it may not hash: PostgresAdvisoryLockKey(name), whose allowHashing is
// false. The error is for a name that only a hash can make a key of, where
// that library throws a FormatException. See [DistributedLock] for the rules.
func DistributedLockExact(name string) (hashkey.Key, error) {
	if key, ok := packASCII(name); ok {
		return key.Named(name), nil
	}
	if key, ok := parseHex(name); ok {
		return key.Named(name), nil
	}
	return hashkey.Key{}, fmt.Errorf("interop: DistributedLock refuses %q unless it may hash: "+
		"it is not up to 9 ASCII characters, nor 16 hexadecimal digits, nor 8 and 8 with a comma between", name)
}

// packASCII stores the characters in 64 bits. The 0 bit marks where they end,
// so that no two names share a number.
func packASCII(name string) (key hashkey.Key, ok bool) {
	const width, most = 7, 64 / 7
	if len(name) > most {
		return hashkey.Key{}, false
	}
	var bits uint64
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			return hashkey.Key{}, false
		}
		bits = bits<<width | uint64(name[i])
	}
	bits <<= 1
	for range most - len(name) {
		bits = bits<<width | (1<<width - 1)
	}
	return hashkey.Pair(int32(bits>>32), int32(bits)), true
}

func parseHex(name string) (key hashkey.Key, ok bool) {
	const half = 8
	digits, isPair := name, false
	if len(name) == 2*half+1 && name[half] == ',' {
		digits, isPair = name[:half]+name[half+1:], true
	}
	bits, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || len(digits) != 2*half {
		return hashkey.Key{}, false
	}
	if isPair {
		return hashkey.Pair(int32(bits>>32), int32(bits)), true
	}
	return hashkey.Int64(int64(bits)), true
}
