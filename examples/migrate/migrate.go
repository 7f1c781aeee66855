package main

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

//go:embed migrations
var migrations embed.FS

// migrateUp brings the schema up to date, one instance at a time, and returns
// its version before and after.
func migrateUp(ctx context.Context, db *sql.DB) (from, to uint, err error) {
	locker := sessionlock.New(db)
	err = locker.WithLock(ctx, hashkey.Name("examples/migrate"), func(ctx context.Context, conn *sql.Conn) error {
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
	defer context.AfterFunc(ctx, func() { m.GracefulStop <- true })()
	if from, err = version(m); err != nil {
		return 0, 0, err
	}
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return from, 0, err
	}
	to, err = version(m)
	return from, to, err
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
