// Package pgtest runs throwaway PostgreSQL servers, and PgBouncer in front of
// them, for tests, examples and benchmarks.
//
// Most tests need one line:
//
//	db, err := sql.Open("pgx", pgtest.New(t).Database(t))
//
// [New] is one server per process, started by the first test that asks;
// [Dedicated] is a server of the test's own, to be configured, stopped or
// crashed. With DATABASE_URL set, New uses that server and starts none.
//
// The server programs are looked for in PGTEST_BIN where that is set (which is
// how a version is chosen), then on PATH, then where the usual packages put
// them, the newest version first. PgBouncer is PGTEST_BOUNCER where that is set,
// and is looked for in the same way otherwise. scripts/postgres and
// scripts/pgbouncer fetch versions that the machine does not have.
//
// Servers are stopped and their data removed when the process that started
// them ends, however it ends, be it by SIGKILL: see guard.sh. The data are in
// TMPDIR where that is set, else in memory where Linux has enough of it to spare.
package pgtest
