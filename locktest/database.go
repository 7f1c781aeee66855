package locktest

import (
	"database/sql"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// urls are the databases of the tests that run, by the tests' names.
var urls struct {
	mu     sync.Mutex
	byTest map[string]string // guarded by mu
}

// URL returns a connection string for the database of the test, which is empty
// when the first call creates it. Every call of URL and [DB] in one test is about
// the same database; a subtest is a test of its own, with another one. The
// database is dropped at the end of the test, whoever is still connected to it.
//
// It is a URL that pgx and lib/pq read, unless DATABASE_URL is set in the form
// "host=… user=…": then it has that form.
func URL(tb testing.TB) string {
	tb.Helper()
	urls.mu.Lock()
	url, ok := urls.byTest[tb.Name()]
	urls.mu.Unlock()
	if ok {
		return url
	}
	server, err := pgtest.Shared()
	if err != nil {
		tb.Fatalf("locktest: %v", err)
	}
	url, drop, err := server.CreateDatabase()
	if err != nil {
		tb.Fatalf("locktest: %v", err)
	}
	setURL(tb.Name(), url)
	tb.Cleanup(func() {
		setURL(tb.Name(), "")
		if err := drop(); err != nil {
			tb.Errorf("locktest: %v", err)
		}
	})
	return url
}

func setURL(test, url string) {
	urls.mu.Lock()
	defer urls.mu.Unlock()
	if url == "" {
		delete(urls.byTest, test)
		return
	}
	if urls.byTest == nil {
		urls.byTest = make(map[string]string)
	}
	urls.byTest[test] = url
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
