//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// A withlock that is killed takes its command and all its group along, and
// the lock is not free before they are gone.
func TestKilled(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	p := start(t, dsn, "job", "--", "sh", "-c", `
		trap "" TERM HUP INT
		`+family)
	parent, child := p.pid(t, "parent"), p.pid(t, "child")
	p.signal(t, syscall.SIGKILL)
	until(t, "the lock is free", func() bool { return tryLock(t, db, job) })
	if alive(parent) || alive(child) {
		t.Error("the lock is free, and the command alive")
	}
	p.ends(t, 128+int(syscall.SIGKILL))
}

// If its guard is killed as well, there is the parent-death signal.
func TestKilledWithItsGuard(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no parent-death signal on " + runtime.GOOS)
	}
	p := start(t, newDatabase(t), "job", "--", "sh", "-c", `echo $$ >parent; while :; do sleep 0.05; done`)
	parent := p.pid(t, "parent")
	if err := syscall.Kill(guardOf(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGKILL)
	until(t, "the command is gone", func() bool { return !alive(parent) })
}

// Without its guard the work is not safe, and ends: nobody would stop it if
// withlock were killed too.
func TestGuardKilled(t *testing.T) {
	dsn := newDatabase(t)
	p := start(t, dsn, "job", "--", "sh", "-c", family)
	parent, child := p.pid(t, "parent"), p.pid(t, "child")
	if err := syscall.Kill(guardOf(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ends(t, 128+int(syscall.SIGKILL))
	if alive(parent) || alive(child) {
		t.Error("withlock has ended, and its command has not")
	}
}

// The guard of a withlock that waits for the lock is there already. It ends with
// withlock, however that ends, and the command does not begin.
func TestGuardOfAWaiter(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	held, err := sessionlock.New(db).Lock(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		p := start(t, dsn, "job", "--", "sh", "-c", "echo began >began")
		guard := guardOf(t, p)
		p.signal(t, signal)
		p.ends(t, 128+int(signal))
		until(t, "the guard has ended", func() bool { return !alive(guard) })
		if _, err := os.Stat(filepath.Join(p.dir, "began")); err == nil {
			t.Errorf("%v: the command began without the lock", signal)
		}
	}
	p := start(t, dsn, "job", "--", "sh", "-c", "echo began >began")
	if err := syscall.Kill(guardOf(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := held.Unlock(); err != nil {
		t.Error(err)
	}
	p.ends(t, 128+int(syscall.SIGKILL)) // as without its guard later
	if got := p.stderr.String(); got != "withlock: sh: its guard has ended\n" {
		t.Errorf("stderr: %s", got)
	}
}

// guardOf waits for the guard of p, and returns its pid.
func guardOf(t *testing.T, p *process) (guard int) {
	t.Helper()
	until(t, "there is a guard", func() bool {
		output, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,args=").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(output)) {
			fields := strings.Fields(line)
			if len(fields) > 3 && fields[1] == strconv.Itoa(p.cmd.Process.Pid) && strings.HasPrefix(fields[3], "--internal-guard") {
				guard, err = strconv.Atoi(fields[0])
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		return guard != 0
	})
	return guard
}
