package interop

import (
	"hash/crc32"
	"strings"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// GolangMigrate returns the key that golang-migrate's drivers postgres, pgx
// and pgx/v5 hold during a migration:
// uint32(CRC-32(schema NUL table NUL database) × 1486364155), as a bigint.
//
// All three are as that library has them. The table is "schema_migrations"
// unless configured; the schema is current_schema() unless configured. The
// database is current_database() where the driver was given an open
// connection, but where it was given a URL it is the URL's path, slash
// included: "/mydb".
func GolangMigrate(database, schema, table string) hashkey.Key {
	const salt uint32 = 1486364155
	sum := crc32.ChecksumIEEE([]byte(strings.Join([]string{schema, table, database}, "\x00")))
	name := strings.Join([]string{database, schema, table}, "/")
	return hashkey.Int64(int64(sum * salt)).Named(name)
}
