package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// A guard can be killed before it has told of the command, or of its end. The
// caller ends what is left of the work all the same, and then returns.
func TestGuardKilledBeforeItTells(t *testing.T) {
	adoptNoOrphansLater(t)
	adoptOrphans()
	gone := forkShell(t, "exit")
	if _, err := syscall.Wait4(gone, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]int{"of the command": 0, "of its end": gone} {
		t.Run(name, func(t *testing.T) {
			caller, toCaller := links(t)
			w := &Work{guard: forkShell(t, "sleep 1000 & kill -KILL $$"), link: caller, done: make(chan struct{})}
			if command != 0 {
				toCaller.send(running, command)
			}
			toCaller.close()
			started := make(chan error, 1)
			go w.follow(started)
			select {
			case <-w.done:
			case <-time.After(20 * time.Second):
				t.Fatal("the work is not over")
			}
			if err := <-started; (err == nil) != (command != 0) {
				t.Errorf("Start returns %v", err)
			}
			if s := w.Status(); !s.Signaled() || s.Signal() != syscall.SIGKILL {
				t.Errorf("status %v, want that of SIGKILL", s)
			}
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
				t.Errorf("a process is left: %d, %v", pid, err)
			}
		})
	}
}

func forkShell(t *testing.T, text string) (pid int) {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", text}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// A guard that somebody has stopped before it tells of the command goes on: until
// then nobody can signal the work.
func TestGuardStoppedAtItsPost(t *testing.T) {
	adoptNoOrphansLater(t)
	g, err := Post(Command{
		Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"},
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(g.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(g.pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the guard: %v, %v", status, err)
	}
	work := make(chan *Work, 1)
	go func() {
		w, err := g.Start(os.Environ(), -1)
		if err != nil {
			t.Error(err)
		}
		work <- w
	}()
	select {
	case w := <-work:
		if w == nil {
			return
		}
		if <-w.Done(); w.Status().ExitStatus() != 3 {
			t.Errorf("the command ends with %v", w.Status())
		}
	case <-time.After(20 * time.Second):
		g.Dismiss()
		t.Fatal("the command does not start")
	}
}

// A guard that has ended is not killed by its pid, which another process may have by
// then.
func TestDismissOfAGuardThatIsGone(t *testing.T) {
	g, err := Post(Command{Path: "/bin/sh", Args: []string{"sh"}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(g.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testneed.Until(t, "the guard is reaped", func() bool { return syscall.Kill(g.pid, 0) == syscall.ESRCH })
	var other *exec.Cmd
	testneed.Until(t, "another process has its pid", func() bool {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(g.pid-1)), 0); err != nil {
			testneed.Missing(t, fmt.Errorf("to choose a pid: %w", err))
		}
		other = exec.Command("sleep", "1000")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		pid := other.Process.Pid
		if pid != g.pid {
			_ = other.Process.Kill()
		}
		return pid == g.pid
	})
	g.Dismiss()
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
}

// adoptNoOrphansLater undoes adoptOrphans at the end of the test.
func adoptNoOrphansLater(t *testing.T) {
	t.Cleanup(func() { _, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, 36, 0, 0) })
}
