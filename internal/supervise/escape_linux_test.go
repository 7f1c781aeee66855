package supervise_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

func exists(r *run, file string) bool {
	_, err := os.Stat(filepath.Join(r.dir, file))
	return err == nil
}

// Work that goes from process to process, each the orphan of the one before, is
// work until its last process is gone, however fast it goes.
func TestOrphanThatForksStays(t *testing.T) {
	for range 5 {
		r := start(t, `hop() { if [ $1 -gt 0 ]; then hop $(($1 - 1)) & else sleep 0.3; note last; fi; }
			hop 300`)
		r.ends(t, 0)
		if !exists(r, "last") {
			t.Error("the work is taken for over while its last process lives")
			until(t, "the last process has come to its end", func() bool { return exists(r, "last") })
		}
	}
}

// What the work starts when it is told to stop does not leave it by the end of its
// parent, whatever session it is in.
func TestStartedByTheStopStays(t *testing.T) {
	r := start(t, `trap 'setsid sh -c "echo \$\$ >child; exec sleep 1000" & sleep 0.3; exit 0' TERM
		note parent; while :; do sleep 0.05; done`)
	r.pid(t, "parent")
	r.signal(t, syscall.SIGTERM)
	child := r.pid(t, "child")
	<-r.ended
	if alive(child) {
		t.Error("the work is over, and a process of it lives")
		kill(t, child)
	}
}

// A guard that may open no more files does not see the work. It does not take it for
// over.
func TestWorkThatIsNotSeen(t *testing.T) {
	r := start(t, `echo $PPID >guard; until test -e begin; do sleep 0.05; done
		timeout 100 sh -c "until test -e end; do sleep 0.05; done; touch last" & exit 0`)
	guard := r.pid(t, "guard")
	limitFiles(t, guard, 3)
	r.touch(t, "begin")
	select {
	case <-r.ended:
		t.Error("the work is taken for over while a process of it lives")
	case <-time.After(time.Second): // in which it would be
	}
	r.touch(t, "end")
	until(t, "the last process has come to its end", func() bool { return exists(r, "last") })
	r.ends(t, 0) // when the guard has no children any more
}

// Where /proc is that of another namespace of processes, the numbers in it mean
// nothing. The work is the command's process group then, and not taken for over
// while that has a process.
func TestForeignProc(t *testing.T) {
	if os.Getuid() != 0 {
		testneed.Missing(t, errors.New("a process namespace takes root"))
	}
	dir := t.TempDir()
	inner := command(t, dir, `(until test -e end; do sleep 0.05; done; touch last) & exit 0`)
	outer := exec.Command("unshare", append([]string{"--pid", "--fork", "--kill-child", "sh", "-c", `"$@" & wait; touch over`, "sh"}, inner.Args...)...)
	outer.Dir = dir
	if err := outer.Start(); err != nil {
		testneed.Missing(t, err)
	}
	t.Cleanup(func() {
		_ = outer.Process.Kill()
		_ = outer.Wait()
	})
	r := &run{dir: dir}
	until(t, "the command has begun", func() bool { return !free(t, dir) })
	time.Sleep(500 * time.Millisecond) // what must not happen in this time is the end
	if exists(r, "over") || free(t, dir) {
		t.Error("the work is taken for over while a process of it lives")
	}
	r.touch(t, "end")
	until(t, "the work is over", func() bool { return exists(r, "over") })
	if !exists(r, "last") {
		t.Error("the last process has not come to its end")
	}
}

// The children that are none of the work are reaped while the command runs: the first
// process of a container has those of all others.
func TestStrangerIsReaped(t *testing.T) {
	r := &run{dir: t.TempDir(), ended: make(chan struct{})}
	caller := command(t, r.dir, `note parent; until test -e end; do sleep 0.05; done; exit 3`)
	r.cmd = exec.Command("/bin/sh", append([]string{"-c", `(until test -e leave; do sleep 0.05; done) & echo $! >stranger; exec "$0" "$@"`}, caller.Args...)...)
	r.cmd.Dir = r.dir
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		_ = r.cmd.Wait() // ends looks at it
	}()
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // it may have ended
	stranger := r.pid(t, "stranger")
	r.pid(t, "parent")
	r.touch(t, "leave")
	until(t, "the stranger is reaped", func() bool { return state(stranger) == "" })
	r.touch(t, "end")
	r.ends(t, 3)
}

// limitFiles sets how many files a process may have open.
func limitFiles(t *testing.T, pid int, files uint64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: files, Max: files}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_NOFILE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

// A child that the caller had before it was the caller is none of the work, and not
// killed with it: "helper & exec withlock …", as the entry point of a container has it.
func TestGuardKilledBesideAStranger(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &run{dir: t.TempDir(), ended: make(chan struct{})}
	r.cmd = exec.Command("/bin/sh", "-c", `sleep 1000 & echo $! >stranger; exec "$0" "$@"`,
		self, "caller", filepath.Join(r.dir, "lock"), "/bin/sh", "-c", note+`echo $PPID >guard; note parent; sleep 1000`)
	r.cmd.Dir = r.dir
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		_ = r.cmd.Wait() // killed, as the guard is
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
	})
	stranger, parent := r.pid(t, "stranger"), r.pid(t, "parent")
	kill(t, r.pid(t, "guard"))
	<-r.ended
	if alive(parent) {
		t.Error("the command lives")
	}
	if !alive(stranger) {
		t.Fatal("the stranger is killed")
	}
	kill(t, stranger)
}
