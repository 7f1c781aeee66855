package interop

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// SQLx returns the key of Rust's sqlx::postgres::PgAdvisoryLock::new(name): 8
// bytes of HKDF-SHA256 of the name, little-endian, as a bigint. It is not the
// key of sqlx's migrations, which lock another number.
func SQLx(name string) hashkey.Key {
	sum, err := hkdf.Key(sha256.New, []byte(name), nil, "SQLx (Rust) Postgres advisory lock", 8)
	if err != nil {
		// Only for output longer than 255 hashes, or where GODEBUG=fips140=only
		// forbids short secrets, to which a name is no exception.
		panic("interop: " + err.Error())
	}
	return hashkey.Int64(int64(binary.LittleEndian.Uint64(sum))).Named(name)
}
