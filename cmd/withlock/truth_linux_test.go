package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A server that stops answering during the wait is none, and not a lock that is taken.
func TestSilentDuringTheWait(t *testing.T) {
	t.Parallel()
	for _, wait := range []string{"2s", "5s"} {
		t.Run(wait, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			between := newProxy(t, dsn)
			holder := start(t, dsn, "job", "--", "sh", "-c", "echo $$ >child; exec sleep 60")
			holder.pid(t, "child")
			p := startLogged(t, between.dsn, "-v", "-w", wait, "job", "true")
			p.says(t, "waiting: ")
			between.set(func(p *proxy) { p.frozen = true })
			p.ends(t, exitNoDatabase)
		})
	}
}

// A writer that has had the turn keeps no connection but that of its lock.
func TestOneConnectionAfterTheTurn(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	reader := start(t, dsn, "-s", "job", "--", "sh", "-c", "echo $$ >child; until test -e end; do sleep 0.05; done")
	reader.pid(t, "child")
	writer := start(t, dsn, "job", "--", "sh", "-c", "echo $$ >child; until test -e end; do sleep 0.05; done")
	until(t, "the writer has the turn", func() bool {
		var n int
		err := db.QueryRow(`select count(*) from pg_locks where locktype = 'advisory' and granted
			and database = (select oid from pg_database where datname = current_database())`).Scan(&n)
		return err == nil && n == 2
	})
	reader.touch(t, "end")
	writer.pid(t, "child")
	until(t, "it has one connection while COMMAND runs", func() bool {
		var n int
		err := db.QueryRow(`select count(*) from pg_stat_activity
			where datname = current_database() and application_name = 'withlock job'`).Scan(&n)
		return err == nil && n == 1
	})
	writer.touch(t, "end")
	writer.ends(t, 0)
}

// What --on-lost has started is not of the work, and not killed with it.
func TestOnLostOutlivesTheGuard(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	p := start(t, dsn, "--on-lost", "echo $$ >begun; sleep 1; touch done", "--kill-after", "20s", "job", "--", "sh", "-c",
		`trap "" TERM; echo $PPID >guard; while :; do sleep 0.1; done`)
	guard := p.pid(t, "guard")
	terminate(t, db, backend(t, db))
	p.pid(t, "begun")
	if err := syscall.Kill(guard, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	until(t, "the command of --on-lost has come to its end", func() bool {
		_, err := os.Stat(filepath.Join(p.dir, "done"))
		return err == nil
	})
}
