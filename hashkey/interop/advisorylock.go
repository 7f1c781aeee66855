package interop

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// AdvisoryLock returns the key of the npm library advisory-lock, 1.1.1 and
// later, and of its command withlock: the first two little-endian int32 of
// SHA-256(name), as a pair.
func AdvisoryLock(name string) hashkey.Key {
	sum := sha256.Sum256([]byte(name))
	class := int32(binary.LittleEndian.Uint32(sum[0:]))
	object := int32(binary.LittleEndian.Uint32(sum[4:]))
	return hashkey.Pair(class, object).Named(name)
}
