//go:build unix

package main

import (
	"database/sql"
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// Scripts have a database of their own at DATABASE_URL, line breaks in LF and CR, and
// these commands:
//
//	status CODE COMMAND…   (with exec) runs a command that is to end with CODE
//	waitfor FILE           waits until there is such a file
//	locks N                waits until the database has N advisory locks
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			tb.Helper()
			dsn := newDatabase(tb)
			env.Setenv("DATABASE_URL", dsn)
			env.Values["db"] = openDB(tb, dsn)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("LF", "\n")
			env.Setenv("CR", "\r")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"waitfor": func(ts *testscript.TestScript, _ bool, args []string) {
				ok := reached(func() bool {
					_, err := os.Stat(ts.MkAbs(args[0]))
					return err == nil
				})
				if !ok {
					ts.Fatalf("%s is not there", args[0])
				}
			},
			"locks": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				db := ts.Value("db").(*sql.DB)
				if !reached(func() bool { return countLocks(db) == want }) {
					ts.Fatalf("there are %d advisory locks, want %d", countLocks(db), want)
				}
			},
		},
	})
}

// newDatabase returns a database of which the test makes sure that in the end
// it has no advisory lock.
func newDatabase(tb testing.TB) string {
	tb.Helper()
	return leakChecked(tb, pgtest.New(tb).Scratch(tb))
}

func leakChecked(tb testing.TB, dsn string) string {
	tb.Helper()
	db := openDB(tb, dsn)
	tb.Cleanup(func() {
		if !reached(func() bool { return countLocks(db) == 0 }) {
			tb.Errorf("the test leaves %d advisory locks behind", countLocks(db))
		}
	})
	return dsn
}
