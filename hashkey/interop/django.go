package interop

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// DjangoPGLock returns the key that django-pglock's advisory locks have for a
// str: the first little-endian int64 of SHA-256(name), as a bigint. An int is
// locked as it is: [hashkey.Int64].
//
// A decorator without an argument is named after its function, as in
// "module.function".
func DjangoPGLock(name string) hashkey.Key {
	sum := sha256.Sum256([]byte(name))
	return hashkey.Int64(int64(binary.LittleEndian.Uint64(sum[:]))).Named(name)
}
