//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
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
	if code := p.code(t); code != -1 {
		t.Errorf("exit code %d", code)
	}
}

// The guard keeps the session, and with it the lock, until it has done its work.
func TestKilledKeepsTheLock(t *testing.T) {
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	p := start(t, dsn, "job", "--", "sh", "-c", family)
	child, guard := p.pid(t, "child"), guardOf(t, p)
	if err := syscall.Kill(guard, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGKILL)
	until(t, "withlock is gone", func() bool { return !alive(p.cmd.Process.Pid) })
	for range 50 {
		if tryLock(t, db, job) {
			t.Error("the lock is free, and the command's child alive")
			break
		}
	}
	if !alive(child) {
		t.Error("the command's child has not lived on, as the test wants it to")
	}
	if err := syscall.Kill(guard, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "the lock is free", func() bool { return tryLock(t, db, job) })
	if alive(child) {
		t.Error("the lock is free, and the command's child alive")
	}
}

// If its guard is killed as well, there is the parent-death signal.
func TestKilledWithItsGuard(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no parent-death signal on " + runtime.GOOS)
	}
	p := start(t, newDatabase(t), "job", "--", "sh", "-c", `echo $$ >parent; while :; do sleep 0.01; done`)
	parent := p.pid(t, "parent")
	if err := syscall.Kill(guardOf(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGKILL)
	until(t, "the command is gone", func() bool { return !alive(parent) })
}

// A guard that is killed alone is no reason to stop.
func TestGuardKilled(t *testing.T) {
	p := start(t, newDatabase(t), "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.01; done; exit 4`)
	p.pid(t, "parent")
	if err := syscall.Kill(guardOf(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.touch(t, "end")
	p.ends(t, 4)
}

func guardOf(t *testing.T, p *process) int {
	t.Helper()
	output, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[1] == strconv.Itoa(p.cmd.Process.Pid) && fields[3] == roleGuard {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no guard in\n%s", output)
	return 0
}

// The command does not run if withlock ends with the gate closed.
func TestGate(t *testing.T) {
	for _, open := range []bool{false, true} {
		ran := filepath.Join(t.TempDir(), "ran")
		touch, err := exec.LookPath("touch")
		if err != nil {
			t.Fatal(err)
		}
		g, other, err := newGate()
		if err != nil {
			t.Fatal(err)
		}
		pid, err := forkSelf(gateArgs(other, touch, []string{"touch", ran}), &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Close(other)
		if open {
			err = g.open()
		} else {
			g.close()
		}
		if err != nil {
			t.Fatal(err)
		}
		var status syscall.WaitStatus
		for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
			_, err = syscall.Wait4(pid, &status, 0, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(ran); (err == nil) != open {
			t.Errorf("gate open: %v; the command's file: %v; status %v", open, err, status)
		}
	}
}
