package main

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

//go:embed migrations
var migrations embed.FS

// migrateUp brings the schema up to date, one instance at a time, and returns
// its version before and after. If ctx ends meanwhile, it stops after the migration
// that is under way, and returns an error.
//
// The lock is the one that golang-migrate takes for itself, with a wait that no ctx
// ends and that holds up a CREATE INDEX CONCURRENTLY. So golang-migrate finds it held
// by its own session, and takes it again at once. The key depends on the names in
// postgres.Config: here they are the defaults.
func migrateUp(ctx context.Context, db *sql.DB) (from, to uint, err error) {
	var database, schema string
	if err := db.QueryRowContext(ctx, `select current_database(), current_schema()`).Scan(&database, &schema); err != nil {
		return 0, 0, err
	}
	key := interop.GolangMigrate(database, schema, postgres.DefaultMigrationsTable)
	err = sessionlock.New(db).WithLock(ctx, key, func(ctx context.Context, conn *sql.Conn) error {
		from, to, err = up(ctx, conn)
		return err
	})
	return from, to, err
}

// up migrates on conn, the session that holds the lock: if it ends, so does
// the migration, and no other instance can begin before.
func up(ctx context.Context, conn *sql.Conn) (from, to uint, err error) {
	source, err := iofs.New(migrations, "migrations")
	if err != nil {
		return 0, 0, err
	}
	defer source.Close()
	driver, err := postgres.WithConnection(ctx, conn, &postgres.Config{})
	if err != nil {
		return 0, 0, err
	}
	m, err := migrate.NewWithInstance("migrations", source, "postgres", driver)
	if err != nil {
		return 0, 0, err
	}
	// Not m.Close(), which would close conn: it is not ours.
	if from, err = version(m); err != nil {
		return 0, 0, err
	}
	// Not m.Up(), whose GracefulStop is a data race, and does not say that it stopped.
	for ctx.Err() == nil {
		switch err := m.Steps(1); {
		case err == fs.ErrNotExist: // the last one is done; a version without a file is an error around it
			to, err = version(m)
			return from, to, err
		case err != nil:
			return from, 0, err
		}
	}
	return from, 0, fmt.Errorf("the migrations were stopped: %w", context.Cause(ctx))
}

// version returns the version of the schema, 0 for one that is empty.
func version(m *migrate.Migrate) (uint, error) {
	v, dirty, err := m.Version()
	switch {
	case errors.Is(err, migrate.ErrNilVersion):
		return 0, nil
	case err != nil:
		return 0, err
	case dirty:
		return 0, fmt.Errorf("migration %d has failed half way", v)
	}
	return v, nil
}
