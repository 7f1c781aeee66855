package supervise_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/ptytest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// terminal starts a program on a terminal. In its environment $caller runs a
// shell text under a caller, and $ticks is such a text: see tick.
func terminal(t *testing.T, program ...string) (*ptytest.Terminal, *run) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PS1=$ ", "caller="+self+" caller lock /bin/sh -c", "ticks=exec "+self+" ticks")
	term := ptytest.Start(t, cmd)
	return term, &run{dir: dir, cmd: cmd}
}

func shell(t *testing.T) (*ptytest.Terminal, *run) {
	t.Helper()
	term, r := terminal(t, "bash", "--norc", "--noprofile", "-i")
	term.Await(t, "$ ", 1)
	return term, r
}

func (r *run) size() int64 {
	info, err := os.Stat(filepath.Join(r.dir, "ticks"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// goesOn waits until the command has done more than it has now.
func (r *run) goesOn(t *testing.T) {
	t.Helper()
	size := r.size()
	until(t, "the command goes on", func() bool { return r.size() > size+3 })
}

func state(pid int) string {
	output, _ := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output() // fails if there is none
	return strings.TrimSpace(string(output))
}

func (r *run) isStopped(t *testing.T) {
	t.Helper()
	pid := r.pid(t, "parent")
	until(t, "the command is stopped", func() bool { return strings.HasPrefix(state(pid), "T") })
	size := r.size()
	time.Sleep(50 * time.Millisecond) // what must not happen in this time is progress
	if r.size() != size {
		t.Error("the command goes on")
	}
}

// Ctrl-Z stops the caller and the command together, and fg and bg continue both.
func TestSuspend(t *testing.T) {
	for name, line := range map[string]string{
		"foreground": `$caller "$ticks"`,
		"pipe":       `$caller "$ticks" | cat`,
		"file":       `$caller "$ticks" </dev/null`,
		"script":     `sh -c '$caller "$ticks"; echo after'`,
		"background": `$caller "$ticks" & fg`,
		"late fg":    "$caller \"$ticks\" &\nsleep 0.3; fg",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term, r := shell(t)
			term.Type(t, line+"\n")
			r.goesOn(t)
			if name == "late fg" {
				time.Sleep(time.Second)
			}
			fg := func() {
				t.Helper()
				term.Type(t, "fg\n")
				until(t, "the shell gives the terminal away", func() bool { return term.Foreground(t) != term.Cmd.Process.Pid })
				r.goesOn(t)
			}
			for i := range 3 {
				term.Type(t, "\x1a")
				term.Await(t, "Stopped", 2*i+1)
				r.isStopped(t)
				term.Type(t, "bg\n")
				r.goesOn(t)
				fg()
				term.Type(t, "\x1a")
				term.Await(t, "Stopped", 2*i+2)
				r.isStopped(t)
				fg()
			}
			term.Type(t, "\x03")
			until(t, "the work is over", func() bool { return free(t, r.dir) })
			term.Type(t, "echo a''live\n")
			term.Await(t, "alive", 1)
		})
	}
}

// When the command has ended, the terminal is the caller's again: Ctrl-Z stops the
// caller and what is left of the work together.
func TestSuspendAfterTheCommandsEnd(t *testing.T) {
	term, r := shell(t)
	term.Type(t, "$caller \"$ticks & true\"\n")
	r.goesOn(t)
	left := r.pid(t, "parent")
	group, err := syscall.Getpgid(left)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the caller is in the foreground", func() bool {
		front := term.Foreground(t)
		return front != group && front != term.Cmd.Process.Pid
	})
	for i := range 2 {
		term.Type(t, "\x1a")
		term.Await(t, "Stopped", i+1)
		r.isStopped(t)
		term.Type(t, "fg\n")
		r.goesOn(t)
	}
	kill(t, left)
	until(t, "the work is over", func() bool { return free(t, r.dir) })
}

// A stop that is told late, when the command is to go on again, stops nobody.
func TestStopIsToldLate(t *testing.T) {
	term, r := shell(t)
	inFront := func(group int, want bool) {
		t.Helper()
		until(t, fmt.Sprintf("%d has the terminal: %t", group, want), func() bool { return (term.Foreground(t) == group) == want })
	}
	shell := term.Cmd.Process.Pid
	term.Type(t, `sh -c '$caller "$ticks"; echo after'`+"\n")
	r.goesOn(t)
	command := r.pid(t, "parent")
	guard := parent(t, command)
	inFront(command, true)
	term.Type(t, "\x1a")
	term.Await(t, "Stopped", 1)
	r.isStopped(t)
	term.Type(t, "bg\n")
	r.goesOn(t)
	term.Type(t, "fg\n") // the job is running, and not told that it has the terminal
	inFront(shell, false)
	if err := syscall.Kill(guard, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "the guard is stopped", func() bool { return strings.HasPrefix(state(guard), "T") })
	term.Type(t, "\x1a")
	term.Await(t, "Stopped", 2)
	if err := syscall.Kill(-command, syscall.SIGTSTP); err != nil { // as the guard is about to do
		t.Fatal(err)
	}
	r.isStopped(t)
	term.Type(t, "fg\n")
	inFront(command, true)
	if err := syscall.Kill(guard, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.goesOn(t)
	term.Type(t, "\x03")
	until(t, "the work is over", func() bool { return free(t, r.dir) })
	term.Type(t, "echo a''live\n")
	term.Await(t, "alive", 1)
	if output := term.Output(); strings.Count(output, "[1]+  Stopped") != 2 {
		t.Errorf("terminal: %s", output)
	}
}

// A command that somebody continues alone takes its caller along, which would not
// notice otherwise that the lock is lost, nor that the work is over.
func TestContinuedAlone(t *testing.T) {
	term, r := shell(t)
	term.Type(t, `$caller "$ticks"`+"\n")
	r.goesOn(t)
	term.Type(t, "\x1a")
	term.Await(t, "Stopped", 1)
	r.isStopped(t)
	command := r.pid(t, "parent")
	caller := parent(t, parent(t, command))
	if err := syscall.Kill(command, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.goesOn(t)
	until(t, "the caller goes on", func() bool { return !strings.HasPrefix(state(caller), "T") })
	kill(t, command)
	until(t, "the work is over", func() bool { return free(t, r.dir) })
}

func parent(t *testing.T, pid int) (parent int) {
	t.Helper()
	output, err := exec.Command("ps", "-o", "ppid=", "-p", fmt.Sprint(pid)).Output()
	if err == nil {
		parent, err = strconv.Atoi(strings.TrimSpace(string(output)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return parent
}

// Where no shell could continue them, Ctrl-Z is ignored.
func TestSuspendWithoutAShell(t *testing.T) {
	for name, program := range map[string][]string{
		"session leader":     {"sh", "-c", `exec $caller "$ticks"`},
		"shell without jobs": {"sh", "-c", `$caller "$ticks"; true`},
		"pipe":               {"sh", "-c", `$caller "$ticks" | cat`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term, r := terminal(t, program...)
			for range 3 {
				r.goesOn(t)
				term.Type(t, "\x1a")
				time.Sleep(50 * time.Millisecond)
			}
			r.goesOn(t)
			term.Type(t, "\x03")
			until(t, "the work is over", func() bool { return free(t, r.dir) })
		})
	}
}

// As the first process of a container as well.
func TestSuspendInAContainer(t *testing.T) {
	if os.Getuid() != 0 {
		testneed.Missing(t, errors.New("a process namespace takes root"))
	}
	term, r := terminal(t, "unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", `exec $caller "$ticks"`)
	r.goesOn(t)
	term.Type(t, "\x1a")
	time.Sleep(50 * time.Millisecond)
	r.goesOn(t)
	term.Type(t, "\x03")
	until(t, "the work is over", func() bool { return free(t, r.dir) })
}

// Ctrl-C ends a loop around the caller, as around the command itself.
func TestInterruptEndsALoop(t *testing.T) {
	const loop = `for i in 1 2 3; do $caller 'echo rou""nd; exec sleep 1000'; done; echo do""ne`
	for _, name := range []string{"sh", "bash"} {
		t.Run(name+" script", func(t *testing.T) {
			t.Parallel()
			term, r := terminal(t, name, "-c", loop)
			term.Await(t, "round", 1)
			term.Type(t, "\x03")
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = r.cmd.Wait()
			}()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatal("the loop goes on")
			}
			if output := term.Output(); strings.Count(output, "round") != 1 || strings.Contains(output, "done") {
				t.Errorf("terminal: %s", output)
			}
		})
	}
	t.Run("typed", func(t *testing.T) {
		t.Parallel()
		term, _ := shell(t)
		term.Type(t, strings.TrimSuffix(loop, `; echo do""ne`)+"\n")
		term.Await(t, "round", 1)
		term.Type(t, "\x03")
		term.Await(t, "$ ", 2)
		term.Type(t, "echo a''live\n")
		term.Await(t, "alive", 1)
		if output := term.Output(); strings.Count(output, "round") != 1 {
			t.Errorf("terminal: %s", output)
		}
	})
}

// A command finds itself in the foreground from its first moment, can read, and
// the terminal is the shell's afterwards.
func TestForeground(t *testing.T) {
	term, _ := terminal(t, "bash", "-c", `for i in 1 2 3 4 5; do
		$caller 'test $(ps -o tpgid= -p $$) = $$ && echo fro""nt'
	done
	$caller 'read line; echo "go""t $line"'; read line; echo "mi""ne $line"`)
	term.Await(t, "front", 5)
	term.Type(t, "words\n")
	term.Await(t, "got words", 1)
	term.Type(t, "more\n")
	term.Await(t, "mine more", 1)
}

// A command whose stdin is no terminal gets the terminal when it reads from it.
func TestReadsTheTerminalItself(t *testing.T) {
	term, _ := shell(t)
	term.Type(t, `$caller 'read line </dev/tty; echo "go""t $line"' </dev/null | cat`+"\n")
	time.Sleep(100 * time.Millisecond)
	term.Type(t, "words\n")
	term.Await(t, "got words", 1)
}
