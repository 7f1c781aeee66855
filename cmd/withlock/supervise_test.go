//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/ptytest"
)

// rounds returns how often a test under stress does something: with -short a
// tenth as often.
func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// A daemon that calls setsid, whenever it does so, is let go at once.
func TestDaemonIsLetGo(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	for range rounds(200) {
		p := start(t, dsn, "job", "--", "sh", "-c", fmt.Sprintf(
			`(sleep %.4f; exec setsid sh -c 'echo $$ >daemon; exec sleep 1000 2>/dev/null') 2>/dev/null &`, rand.Float64()*0.02))
		p.ends(t, 0)
		if !tryLock(t, db, job) {
			t.Error("the lock is not free")
		}
		if err := syscall.Kill(p.pid(t, "daemon"), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
}

// A daemon that ends in the rest of --min-hold is reaped.
func TestDaemonIsReaped(t *testing.T) {
	t.Parallel()
	p := start(t, newDatabase(t), "--min-hold", "1h", "job", "--", "sh", "-c",
		`setsid sh -c 'echo $$ >daemon; until test -e end; do sleep 0.05; done' 2>/dev/null & until test -s daemon; do sleep 0.05; done`)
	daemon := p.pid(t, "daemon")
	until(t, "the guard has ended", func() bool {
		parent, _ := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(daemon)).Output() // no process: no parent
		return strings.TrimSpace(string(parent)) == strconv.Itoa(p.cmd.Process.Pid)
	})
	p.touch(t, "end")
	until(t, "the daemon is reaped", func() bool { return state(daemon) == "" })
	p.signal(t, syscall.SIGTERM)
	p.ends(t, 0)
}

// When a withlock that was killed lets the next one in, none of its work is
// alive.
func TestKilledUnderStress(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	kinds := []string{
		`timeout 1000 sh -c '%s' & wait`,
		`setsid sh -c '%s' & wait`,
		`sh -c '%s' & wait`,
		`setsid timeout 1000 sh -c 'set -m; sh -c "%s" & wait' & wait`,
	}
	if os.Getuid() == 0 {
		kinds = append(kinds, `su root -c '%s' & wait`)
	}
	const worker = `echo \$\$ >>pids; echo >started; trap : TERM; while :; do sleep 0.01; done`
	const look = `for pid in $(cat pids); do
		test ! -e /proc/$pid || grep -q "^State:.Z" /proc/$pid/status || echo $pid >>bad
	done`
	for i := range rounds(100) {
		dir := t.TempDir()
		text := fmt.Sprintf(kinds[i%len(kinds)], strings.ReplaceAll(worker, `\$`, map[bool]string{true: `\$`, false: `$`}[i%len(kinds) == 3]))
		first := startIn(t, dir, dsn, "job", "--", "sh", "-c", "echo $$ >>pids; "+text)
		next := startIn(t, dir, dsn, "-v", "job", "--", "sh", "-c", look)
		until(t, "the work has begun", func() bool {
			_, err := os.Stat(filepath.Join(dir, "started"))
			return err == nil
		})
		time.Sleep(rand.N(20 * time.Millisecond)) // any moment will do
		first.signal(t, syscall.SIGKILL)
		next.ends(t, 0)
		if bad, err := os.ReadFile(filepath.Join(dir, "bad")); err == nil {
			t.Fatalf("%s: alive: %s", text, bad)
		}
	}
}

// A lock that is lost ends the work in whatever group and session it is.
func TestLostReachesEveryChild(t *testing.T) {
	for name, text := range map[string]string{
		"timeout": `timeout 1000 sh -c 'echo $$ >child; exec sleep 1000' & wait`,
		"setsid":  `setsid sh -c 'echo $$ >child; exec sleep 1000' & wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			db := openDB(t, dsn)
			testLoss(t, dsn, `echo $$ >parent; `+text, func() { terminate(t, db, backend(t, db)) })
		})
	}
}

// A signal that was ignored when withlock began is ignored by it and by COMMAND.
func TestIgnoredSignals(t *testing.T) {
	for _, s := range []syscall.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
		syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			p := startAs(t, newDatabase(t), "sh", "-c", fmt.Sprintf(`trap "" %d; exec "$0" "$@"`, int(s)))(
				"job", "--", "sh", "-c", fmt.Sprintf(`echo $$ >parent; until test -e go; do sleep 0.05; done; kill -%d $$; touch after; until test -e end; do sleep 0.05; done; exit 3`, int(s)))
			p.pid(t, "parent")
			p.signal(t, s)
			p.touch(t, "go")
			until(t, "COMMAND has survived it", func() bool {
				_, err := os.Stat(filepath.Join(p.dir, "after"))
				return err == nil
			})
			p.touch(t, "end")
			p.ends(t, 3)
		})
	}
}

// startAs returns a start whose withlock is executed by another program.
func startAs(t *testing.T, dsn string, program ...string) func(args ...string) *process {
	return func(args ...string) *process {
		t.Helper()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(t.TempDir(), "withlock") // the name says what the test binary is
		if err := os.Symlink(self, link); err != nil {
			t.Fatal(err)
		}
		return startCommand(t, t.TempDir(), dsn, exec.Command(program[0], append(append(program[1:], link), args...)...))
	}
}

// A stderr that nobody reads changes no exit code, and COMMAND has its grace.
func TestBrokenStderr(t *testing.T) {
	t.Run("conflict", func(t *testing.T) {
		p := startAs(t, "postgres://127.0.0.1:1/none", "bash", "-c", `"$0" "$@" 2> >(exec <&- 2>/dev/null; exec sleep 5) & wait $!; echo $? >code.new; mv code.new code`)("job", "true")
		if code := p.pid(t, "code"); code != exitNoDatabase {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("lost", func(t *testing.T) {
		dsn := newDatabase(t)
		db := openDB(t, dsn)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Args = []string{"withlock", "job", "--", "sh", "-c",
			`exec 2>/dev/null; trap "sleep 0.3; touch clean; exit" TERM; echo $$ >parent; while :; do sleep 0.05; done`}
		cmd.Stderr = w
		p := startCommand(t, t.TempDir(), dsn, cmd)
		p.pid(t, "parent")
		_ = r.Close()
		terminate(t, db, backend(t, db))
		p.ends(t, exitLost)
		if _, err := os.Stat(filepath.Join(p.dir, "clean")); err != nil {
			t.Error("COMMAND had no grace")
		}
	})
}

// Ctrl-C ends a loop around withlock, whether COMMAND runs or the lock is waited
// for.
func TestInterruptEndsALoop(t *testing.T) {
	dsn := newDatabase(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	loop := func() *ptytest.Terminal {
		cmd := exec.Command("sh", "-c", `for i in 1 2 3; do echo rou""nd; ./withlock job -- sh -c 'echo work""ing; exec sleep 1000'; done`)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
		if err := os.Symlink(self, filepath.Join(cmd.Dir, "withlock")); err != nil {
			t.Fatal(err)
		}
		return ptytest.Start(t, cmd)
	}
	first := loop()
	first.Await(t, "working", 1)
	second := loop()
	second.Await(t, "round", 1)
	waits(t, openDB(t, dsn))
	for _, term := range []*ptytest.Terminal{second, first} {
		term.Type(t, "\x03")
		if err := term.Cmd.Wait(); err == nil || strings.Count(term.Output(), "round") != 1 {
			t.Errorf("the loop goes on: %v", err)
		}
	}
}

// Ctrl-Z stops a withlock that keeps the lock after COMMAND has ended.
func TestSuspendInTheMinHold(t *testing.T) {
	dsn := newDatabase(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "--norc", "--noprofile", "-i")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn, "PS1=$ ")
	if err := os.Symlink(self, filepath.Join(cmd.Dir, "withlock")); err != nil {
		t.Fatal(err)
	}
	term := ptytest.Start(t, cmd)
	term.Await(t, "$ ", 1)
	term.Type(t, "./withlock -v --min-hold 1h job true; echo co''de $?\n")
	term.Await(t, "keeping the lock", 1)
	for i := range 2 {
		term.Type(t, "\x1a")
		term.Await(t, "Stopped", i+1)
		term.Type(t, "fg\n")
		until(t, "withlock is in the foreground", func() bool { return term.Foreground(t) != cmd.Process.Pid })
	}
	term.Type(t, "\x03")
	until(t, "the lock is free", func() bool { return tryLock(t, openDB(t, dsn), job) })
}

// What COMMAND has left behind in the background ignores Ctrl-C, as it does in every
// shell. withlock does not, and ends it.
func TestInterruptAfterTheCommandsEnd(t *testing.T) {
	dsn := newDatabase(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = []string{"withlock", "--kill-after", "100ms", "job", "-c", `sleep 1000 & echo work""ing`}
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
	term := ptytest.Start(t, cmd)
	term.Await(t, "working", 1)
	until(t, "withlock is in the foreground", func() bool { return term.Foreground(t) == cmd.Process.Pid })
	term.Type(t, "\x03")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// The executable can be replaced while withlock waits.
func TestExecutableReplaced(t *testing.T) {
	dsn := newDatabase(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "withlock")
	if err := os.WriteFile(file, content, 0o700); err != nil {
		t.Fatal(err)
	}
	holder := start(t, dsn, "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.05; done`)
	holder.pid(t, "parent")
	waiter := startCommand(t, dir, dsn, exec.Command(file, "job", "sh", "-c", "echo $$ >ran"))
	waits(t, openDB(t, dsn))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\ntouch wrong\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	holder.touch(t, "end")
	holder.ends(t, 0)
	waiter.ends(t, 0)
	waiter.pid(t, "ran")
	if _, err := os.Stat(filepath.Join(dir, "wrong")); err == nil {
		t.Error("the new file has run")
	}
}
