//go:build unix

package main

import (
	"database/sql"
	"strings"
	"syscall"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

var job = hashkey.Name("job")

// family is a command with a child of its own. Their pids are in the files
// parent and child.
const family = `
	sh -c 'echo $$ >child; exec sleep 1000' &
	echo $$ >parent
	wait`

func TestSignalsReachTheGroup(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			// A shell starts what is in the background with SIGINT and SIGQUIT
			// ignored; so the grandchild must be in the foreground.
			p := start(t, dsn, "--kill-after=1h", "job", "--", "sh", "-c", `echo $$ >parent; sh -c 'echo $$ >child; exec sleep 1000'; exit 9`)
			parent, child := p.pid(t, "parent"), p.pid(t, "child")
			p.signal(t, signal)
			p.ends(t, 128+int(signal))
			if alive(parent) || alive(child) {
				t.Error("withlock has ended, and its command has not")
			}
			if !tryLock(t, openDB(t, dsn), job) {
				t.Error("the lock is not free")
			}
		})
	}
}

// The lock is held for as long as anybody of the group lives.
func TestLockOutlivesTheGroup(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(t *testing.T, p *process)
		code int
	}{
		{"after SIGTERM", func(t *testing.T, p *process) { p.signal(t, syscall.SIGTERM) }, 128 + int(syscall.SIGTERM)},
		{"after the command's own end", func(t *testing.T, p *process) { p.touch(t, "end") }, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			db := openDB(t, dsn)
			p := start(t, dsn, "--kill-after=1h", "job", "--", "sh", "-c", `
				sh -c 'trap "" TERM; echo $$ >child; until test -e leave; do sleep 0.05; done' &
				echo $$ >parent
				until test -e end; do sleep 0.05; done
				exit 7`)
			parent, child := p.pid(t, "parent"), p.pid(t, "child")
			test.end(t, p)
			until(t, "the command is gone", func() bool { return !alive(parent) })
			for range 20 {
				if tryLock(t, db, job) {
					t.Fatal("the lock is free, and the command's child alive")
				}
			}
			if !alive(child) {
				t.Fatal("the command's child has not lived on, as the test wants it to")
			}
			p.touch(t, "leave")
			p.ends(t, test.code)
			if !tryLock(t, db, job) {
				t.Error("the lock is not free")
			}
		})
	}
}

// Who ignores SIGTERM is killed, be it the command or what it has left behind.
func TestKillAfter(t *testing.T) {
	for _, test := range []struct {
		name, after, command string
		code                 int
	}{
		{"command", "100ms", `trap "" TERM; echo $$ >child; while :; do sleep 0.05; done`, 128 + int(syscall.SIGKILL)},
		{"child", "1s", `
			sh -c 'trap "" TERM; echo $$ >child; while :; do sleep 0.05; done' &
			wait`, 128 + int(syscall.SIGTERM)},
		{"stopped", "1h", `echo $$ >child; kill -STOP $$`, 128 + int(syscall.SIGTERM)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			p := start(t, dsn, "--kill-after="+test.after, "job", "--", "sh", "-c", test.command)
			child := p.pid(t, "child")
			if test.name == "stopped" {
				until(t, "the command is stopped", func() bool { return strings.HasPrefix(state(child), "T") })
			}
			p.signal(t, syscall.SIGTERM)
			p.ends(t, test.code)
			if alive(child) {
				t.Error("it lives on")
			}
		})
	}
}

// A program that is told by SIGHUP to read its configuration again goes on.
func TestHangUpKillsNobody(t *testing.T) {
	p := start(t, newDatabase(t), "--kill-after=0", "job", "--", "sh", "-c", `
		trap 'echo $$ >hup' HUP
		echo $$ >parent
		until test -e end; do sleep 0.05; done
		exit 5`)
	p.pid(t, "parent")
	p.signal(t, syscall.SIGHUP)
	p.pid(t, "hup")
	p.touch(t, "end")
	p.ends(t, 5)
}

// A signal during the wait ends the wait.
func TestSignalWhileWaiting(t *testing.T) {
	dsn := newDatabase(t)
	first := start(t, dsn, "job", "--", "sh", "-c", family)
	first.pid(t, "child")
	db := openDB(t, dsn)
	waiter := start(t, dsn, "job", "--", "touch", "ran")
	waits(t, db)
	waiter.signal(t, syscall.SIGTERM)
	waiter.ends(t, 128+int(syscall.SIGTERM))
	first.signal(t, syscall.SIGTERM)
	first.ends(t, 128+int(syscall.SIGTERM))
}

// waits waits until a withlock has the lock refused, or waits on the server.
func waits(t *testing.T, db *sql.DB) {
	t.Helper()
	until(t, "somebody waits for the lock", func() bool {
		var n int
		err := db.QueryRow(`select count(*) from pg_stat_activity where datname = current_database()
			and application_name = 'withlock job' and wait_event_type = 'Lock'`).Scan(&n)
		return err == nil && n == 1
	})
}
