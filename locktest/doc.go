// Package locktest is for tests of code that takes locks: a database on a
// throwaway server, a key that another session holds, and a holder that loses its
// lock.
//
//	func TestSkipsWhenBusy(t *testing.T) {
//		db := locktest.DB(t)
//		locktest.Hold(t, locktest.URL(t), hashkey.Name("nightly"))
//		err := sessionlock.New(db).TryWithLock(t.Context(), hashkey.Name("nightly"), job)
//		if !errors.Is(err, sessionlock.ErrNotAcquired) {
//			t.Errorf("error is %v", err)
//		}
//	}
//
// The locks are real, and so is the server. There is no double of it in memory:
// docs/testing.md says why, and what to do in tests that need no lock.
//
// # The server
//
// Where DATABASE_URL is set, the server is the one that it points to. The role
// must be one that may create databases. Nothing there is touched but the
// databases that the tests create, and drop. Their names begin with pgtest_.
//
// Elsewhere the first test that needs a server starts one, for all tests of its
// process: on a free port of 127.0.0.1, in a temporary directory, without a
// password. It is gone soon after the process has ended, also where the process
// was killed. What initdb makes is kept in the user's cache directory, for the next
// server. The programs are in PGTEST_BIN, a directory with initdb and pg_ctl, or
// else on PATH, or else the newest in the places where packages put them. PostgreSQL
// refuses to run as root: there it runs under the account postgres or nobody.
//
// Where there is no server to be had the test fails, and says what to install. It
// is not skipped, as that is easy to miss. A package that must pass without a server
// skips such tests, under testing.Short() for example.
//
// Starting servers takes Unix. Elsewhere there is DATABASE_URL.
package locktest
