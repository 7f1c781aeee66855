package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/pressly/goose/v3/lock"

	"github.com/golang-migrate/migrate/v4/database"
)

// goose is pressly/goose's session locker, as goose uses it: on a connection
// that is pinned for the session, and that the transaction runs on as well.
func goose() competitor {
	return competitor{
		name:   "goose session locker",
		module: "github.com/pressly/goose/v3",
		sends: "`db.Conn`, `SELECT pg_try_advisory_lock($1)`, `SELECT pg_advisory_unlock($1)`: no transaction; " +
			"around an UPDATE `BeginTx` and `Commit` on that connection",
		open: func(_ context.Context, p *place) (locker, error) {
			return stateless(func(ctx context.Context, t turn) error { return gooseTurn(ctx, p.db, t) }), nil
		},
	}
}

func gooseTurn(ctx context.Context, db *sql.DB, t turn) (err error) {
	// A locker of its own for each turn, as it is made for one key.
	session, err := lock.NewPostgresSessionLocker(lock.WithLockID(t.key))
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := session.SessionLock(ctx, conn); err != nil {
		return err
	}
	return errors.Join(t.beside(ctx, conn), session.SessionUnlock(ctx, conn))
}

// golangMigrate is the lock of golang-migrate's driver. It pins a connection
// for as long as the driver lives, and does not lend it, so that a transaction
// runs on another one.
func golangMigrate() competitor {
	return competitor{
		name:   "golang-migrate lock",
		module: "github.com/golang-migrate/migrate/v4",
		sends: "`SELECT pg_advisory_lock($1)`, `SELECT pg_advisory_unlock($1)` on the driver's own connection: no transaction; " +
			"around an UPDATE `BeginTx` and `Commit` on another connection",
		open: func(_ context.Context, p *place) (locker, error) {
			return openMigrate(p, func(ctx context.Context, _ database.Driver, t turn) error { return t.beside(ctx, p.db) })
		},
	}
}

// golangMigrateRun has the driver run the UPDATE, as a migration is run: as
// text, without parameters, and without the caller's code in between.
func golangMigrateRun() competitor {
	return competitor{
		name:       nameRun,
		module:     "github.com/golang-migrate/migrate/v4",
		sends:      "the same lock around `Run` of the UPDATE as text with the row's number in it: one statement that commits by itself, no `*sql.Tx`",
		updateOnly: true,
		open: func(_ context.Context, p *place) (locker, error) {
			return openMigrate(p, func(_ context.Context, d database.Driver, t turn) error {
				return d.Run(strings.NewReader(strings.Replace(updateSQL, "$1", fmt.Sprint(t.row()), 1)))
			})
		},
	}
}

// migrateDrivers are one driver for each worker.
type migrateDrivers struct {
	drivers []database.Driver
	work    func(ctx context.Context, d database.Driver, t turn) error
}

// openMigrate opens the drivers. The key is made of the names of the database
// and the version table, so each gets a version table of its own.
func openMigrate(p *place, work func(context.Context, database.Driver, turn) error) (locker, error) {
	m := &migrateDrivers{work: work}
	for worker := range p.workers {
		db := p.pool(2) // closed with the driver
		driver, err := migratepgx.WithInstance(db, &migratepgx.Config{MigrationsTable: fmt.Sprintf("versions_%d", worker)})
		if err != nil {
			return nil, errors.Join(err, db.Close(), m.close())
		}
		m.drivers = append(m.drivers, driver)
	}
	return m, nil
}

func (m *migrateDrivers) turn(ctx context.Context, t turn) error {
	driver := m.drivers[t.worker]
	if err := driver.Lock(); err != nil {
		return err
	}
	return errors.Join(m.work(ctx, driver, t), driver.Unlock())
}

func (m *migrateDrivers) close() error {
	var errs []error
	for _, driver := range m.drivers {
		errs = append(errs, driver.Close())
	}
	return errors.Join(errs...)
}
