//go:build unix

package main

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// A lock that is lost stops the command, and who does not stop is killed.
func TestLost(t *testing.T) {
	for name, command := range map[string]string{
		"stops":         family,
		"ignores":       `trap "" TERM; ` + family,
		"exits with 0":  `trap "exit 0" TERM; ` + family,
		"child ignores": `sh -c 'trap "" TERM; echo $$ >child; while :; do sleep 0.05; done' & echo $$ >parent; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			db := openDB(t, dsn)
			testLoss(t, dsn, command, func() { terminate(t, db, backend(t, db)) })
		})
	}
}

func TestLostToTheServersEnd(t *testing.T) {
	server := pgtest.Dedicated(t)
	dsn := leakChecked(t, server.Database(t))
	t.Run("restart", func(t *testing.T) {
		testLoss(t, dsn, family, func() { server.Restart(t) })
	})
	t.Run("crash", func(t *testing.T) {
		testLoss(t, dsn, family, func() { server.Crash(t) })
		server.Restart(t)
	})
}

func testLoss(t *testing.T, dsn, command string, lose func()) {
	p := start(t, dsn, "--kill-after=200ms", "job", "--", "sh", "-c", command)
	parent, child := p.pid(t, "parent"), p.pid(t, "child")
	lose()
	p.ends(t, exitLost)
	if alive(parent) || alive(child) {
		t.Error("withlock has ended, and its command has not")
	}
	if got := p.stderr.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"job" was lost`) {
		t.Errorf("stderr is not one line that says it: %s", got)
	}
}

// A loss that nobody noticed until the command had ended is one all the same.
func TestLostAtTheEnd(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	// The command ends as soon as it can after the session does.
	p := start(t, dsn, "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.001; done`)
	p.pid(t, "parent")
	terminate(t, db, backend(t, db))
	p.touch(t, "end")
	p.ends(t, exitLost)
}

// A loss after COMMAND's end, in the rest of --min-hold, is one, and not said to have been
// while COMMAND ran.
func TestLostInTheMinHold(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	p := startLogged(t, dsn, "-v", "--min-hold", "1h", "job", "true")
	p.says(t, "keeping the lock")
	terminate(t, db, backend(t, db))
	p.ends(t, exitLost)
	if got := p.logged(t); !strings.Contains(got, `"job" was lost: another`) {
		t.Errorf("output: %s", got)
	}
}

// terminate ends a session and waits until it has.
func terminate(t *testing.T, db *sql.DB, pid int) {
	t.Helper()
	if _, err := db.Exec(`select pg_terminate_backend($1)`, pid); err != nil {
		t.Fatal(err)
	}
	until(t, "the session is gone", func() bool {
		var n int
		err := db.QueryRow(`select count(*) from pg_stat_activity where pid = $1`, pid).Scan(&n)
		return err == nil && n == 0
	})
}
