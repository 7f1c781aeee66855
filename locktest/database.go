package locktest

import (
	"database/sql"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// databases are the databases of the tests that run, by the tests' names. Each is created
// by the first call of its function; later calls return the same.
var databases struct {
	mu     sync.Mutex
	byTest map[string]func() database // guarded by mu
}

// database is an empty database that was created, or err says why there is none.
type database struct {
	url  string
	drop func() error
	err  error
}

// URL returns a connection string for the database of the test, which is empty
// when the first call creates it. Every call of URL and [DB] in one test is about
// the same database; a subtest is a test of its own, with another one. The
// database is dropped at the end of the test, also under open sessions.
//
// It is a URL that pgx and lib/pq read, unless DATABASE_URL is set in the form
// "host=… user=…": then it has that form.
func URL(tb testing.TB) string {
	tb.Helper()
	d := databaseOf(tb)()
	if d.err != nil {
		tb.Fatalf("locktest: %v", d.err)
	}
	return d.url
}

// databaseOf returns the function that returns the database of the test.
func databaseOf(tb testing.TB) func() database {
	databases.mu.Lock()
	defer databases.mu.Unlock()
	if get, ok := databases.byTest[tb.Name()]; ok {
		return get
	}
	get := sync.OnceValue(createDatabase)
	if databases.byTest == nil {
		databases.byTest = make(map[string]func() database)
	}
	databases.byTest[tb.Name()] = get
	tb.Cleanup(func() {
		databases.mu.Lock()
		delete(databases.byTest, tb.Name())
		databases.mu.Unlock()
		if d := get(); d.err == nil {
			if err := d.drop(); err != nil {
				tb.Errorf("locktest: %v", err)
			}
		}
	})
	return get
}

func createDatabase() (d database) {
	server, err := pgtest.Shared()
	if err != nil {
		return database{err: err}
	}
	d.url, d.drop, d.err = server.CreateDatabase()
	return d
}

// DB returns a pool of pgx's stdlib on the database of the test: see [URL]. Each
// call returns a pool of its own, as each process of a service has, and all of one
// test are on one database. The pool is closed at the end of the test.
func DB(tb testing.TB) *sql.DB {
	tb.Helper()
	return open(tb, URL(tb), nil)
}

// open returns a pool that is closed at the end of the test. edit changes its
// config, unless it is nil.
func open(tb testing.TB, url string, edit func(*pgx.ConnConfig)) *sql.DB {
	tb.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatalf("locktest: %v", err)
	}
	if edit != nil {
		edit(config)
	}
	db := stdlib.OpenDB(*config)
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("locktest: close the pool: %v", err)
		}
	})
	return db
}
