//go:build unix

package supervise_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

const patience = 20 * time.Second

// run is a running caller. The shell text that it runs finds these commands:
//
//	note FILE   writes the shell's pid into FILE
type run struct {
	cmd   *exec.Cmd
	dir   string
	ended chan struct{}
}

const note = `note() { echo $$ >$1.new; mv $1.new $1; }
`

var until = testneed.Until

func command(tb testing.TB, dir, text string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self, "caller", filepath.Join(dir, "lock"), "/bin/sh", "-c", note+text)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func start(tb testing.TB, text string) *run {
	tb.Helper()
	dir := tb.TempDir()
	r := &run{cmd: command(tb, dir, text), dir: dir, ended: make(chan struct{})}
	if err := r.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		_ = r.cmd.Wait() // code looks at it
	}()
	tb.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
		until(tb, "the lock is free after the test", func() bool { return free(tb, r.dir) })
	})
	return r
}

func (r *run) signal(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		tb.Fatal(err)
	}
}

func (r *run) ends(tb testing.TB, want int) {
	tb.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		tb.Fatal("the caller does not end")
	}
	if got := r.cmd.ProcessState.ExitCode(); got != want {
		tb.Errorf("exit code %d, want %d", got, want)
	}
}

func (r *run) pid(tb testing.TB, file string) (pid int) {
	tb.Helper()
	until(tb, "there is a pid in "+file, func() bool {
		text, err := os.ReadFile(filepath.Join(r.dir, file))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	return pid
}

func (r *run) touch(tb testing.TB, file string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, file), nil, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// free reports whether the lock of the callers in a directory is free.
func free(tb testing.TB, dir string) bool {
	tb.Helper()
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		tb.Fatal(err)
	}
	return err == nil
}

// alive reports whether there is such a process that is no zombie.
func alive(pid int) bool {
	output, _ := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output() // fails if there is none
	state := strings.TrimSpace(string(output))
	return state != "" && !strings.HasPrefix(state, "Z")
}

func kill(tb testing.TB, pid int) {
	tb.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		tb.Error(err)
	}
}

func onLinux(tb testing.TB) {
	tb.Helper()
	if runtime.GOOS != "linux" {
		tb.Skip("the work is a process group on " + runtime.GOOS)
	}
}

// children are ways to start a child that does not leave the work. %s is what
// the child does.
var children = map[string]string{
	"plain":       `sh -c '%s' & wait`,
	"timeout":     `timeout 1000 sh -c '%s' & wait`,
	"setsid":      `setsid sh -c '%s' & wait`,
	"su":          `su root -c '%s' & wait`,
	"nested":      `sh -c "timeout 1000 setsid -w sh -c '"'%s'"'" & wait`,
	"orphan":      `(sh -c '%s' &) ; while :; do sleep 1; done`,
	"own group":   `set -m; sh -c '%s' & wait`,
	"orphan only": `(timeout 1000 sh -c '%s' &)`,
}

// worker notes its pid as child, and ends by force only.
const worker = `trap "" TERM HUP INT; echo $$ >child.new; mv child.new child; while :; do sleep 0.05; done`

func forEachChild(t *testing.T, test func(t *testing.T, text string)) {
	onLinux(t)
	for name, text := range children {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "su" && os.Getuid() != 0 {
				testneed.Missing(t, errors.New("su asks for a password, except from root"))
			}
			test(t, fmt.Sprintf(text, worker))
		})
	}
}

// To stop is to stop all of the work, whatever group or session it is in.
func TestStopReachesEveryChild(t *testing.T) {
	forEachChild(t, func(t *testing.T, text string) {
		r := start(t, text)
		child := r.pid(t, "child")
		r.signal(t, syscall.SIGTERM)
		select {
		case <-r.ended:
		case <-time.After(patience):
			t.Fatal("the caller does not end")
		}
		if alive(child) {
			t.Error("the caller has ended, and the child lives")
		}
	})
}

// If the caller is killed, the lock is not free before all of the work is gone.
func TestCallerKilled(t *testing.T) {
	forEachChild(t, func(t *testing.T, text string) {
		r := start(t, text)
		child := r.pid(t, "child")
		r.signal(t, syscall.SIGKILL)
		began := time.Now()
		until(t, "the lock is free", func() bool { return free(t, r.dir) })
		t.Logf("the lock was free after %v", time.Since(began))
		if alive(child) {
			t.Error("the lock is free, and the child lives")
		}
	})
}

// The guard keeps the lock from the moment of the caller's end: it is looked at
// without a pause.
func TestCallerKilledKeepsTheLock(t *testing.T) {
	onLinux(t)
	r := start(t, `for i in 1 2 3 4 5 6 7 8 9; do setsid sh -c 'echo $$ >child'$i'; exec sleep 1000' & done; wait`)
	var pids []int
	for i := 1; i < 10; i++ {
		pids = append(pids, r.pid(t, fmt.Sprint("child", i)))
	}
	r.signal(t, syscall.SIGKILL)
	for end := time.Now().Add(patience); !free(t, r.dir); {
		if time.Now().After(end) {
			t.Fatal("the lock is not free")
		}
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprint("/proc/", pid, "/stat"))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Fatalf("the lock is free, and a child lives: %s", stat)
		}
	}
}

// If the guard is killed, the caller ends the work, and does not say that it has
// ended well: not even where the command itself has.
func TestGuardKilled(t *testing.T) {
	forEachChild(t, func(t *testing.T, text string) {
		r := start(t, `echo $PPID >guard.new; mv guard.new guard; `+text)
		child := r.pid(t, "child")
		kill(t, r.pid(t, "guard"))
		r.ends(t, 128+int(syscall.SIGKILL))
		if alive(child) {
			t.Error("the caller has ended, and the child lives")
		}
	})
}

// A guard that somebody has stopped goes on when the work is to end.
func TestGuardStopped(t *testing.T) {
	r := start(t, `echo $PPID >guard.new; mv guard.new guard; while :; do sleep 0.05; done`)
	if err := syscall.Kill(r.pid(t, "guard"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.signal(t, syscall.SIGTERM)
	r.ends(t, 128+int(syscall.SIGTERM))
}

// The signal that asks to end reaches a child in another session, and waits for
// it to clean up although its parent is gone.
func TestStopGivesGrace(t *testing.T) {
	onLinux(t)
	r := start(t, `setsid sh -c 'trap "sleep 0.05; touch clean; exit" TERM; echo $$ >child; while :; do sleep 0.05; done' & wait`)
	child := r.pid(t, "child")
	r.signal(t, syscall.SIGTERM)
	r.ends(t, 128+int(syscall.SIGTERM))
	if _, err := os.Stat(filepath.Join(r.dir, "clean")); err != nil || alive(child) {
		t.Errorf("alive: %v; cleaned up: %v", alive(child), err)
	}
}

// An orphan keeps the work going, and a daemon that calls setsid does not,
// whenever it does so.
func TestDaemon(t *testing.T) {
	onLinux(t)
	for name, text := range map[string]string{
		"at once":        `setsid sh -c 'echo $$ >child; exec sleep 1000' &`,
		"with a parent":  `setsid sh -c 'echo $$ >child; exec sleep 1000' & sleep 0.05`,
		"by itself":      `(sleep 0.1; exec setsid sh -c 'echo $$ >child; exec sleep 1000') &`,
		"forks twice":    `(sleep 0.05; setsid sh -c '(echo $(exec sh -c "echo \$PPID") >child; exec sleep 1000) &') &`,
		"out of timeout": `(timeout 1000 sh -c 'exec sleep 0.1'; exec setsid sh -c 'echo $$ >child; exec sleep 1000') &`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, text)
			child := r.pid(t, "child")
			r.ends(t, 0)
			if !free(t, r.dir) {
				t.Error("the lock is not free")
			}
			if !alive(child) {
				t.Error("the daemon is gone")
			}
			kill(t, child)
		})
	}
	for range rounds(100) {
		r := start(t, fmt.Sprintf(`(sleep %.4f; exec setsid sh -c 'echo $$ >child; exec sleep 1000') &`, rand.Float64()*0.02))
		r.ends(t, 0)
		kill(t, r.pid(t, "child"))
	}
}

// rounds returns how often a test under stress does something: with -short a
// tenth as often.
func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// An orphan that stays in a session of the work keeps the work going.
func TestOrphanStays(t *testing.T) {
	onLinux(t)
	r := start(t, `(timeout 1000 sh -c 'echo $$ >child; until test -e end; do sleep 0.05; done' &) ; exit 3`)
	child := r.pid(t, "child")
	time.Sleep(100 * time.Millisecond) // what must not happen in this time is the end
	if free(t, r.dir) || !alive(child) {
		t.Error("the work is taken for over")
	}
	r.touch(t, "end")
	r.ends(t, 3)
}

// Daemons that have ended are reaped while the command runs.
func TestZombies(t *testing.T) {
	onLinux(t)
	r := start(t, `for i in 1 2 3 4 5 6 7 8 9 10; do (setsid true &); (true &); done; note parent; until test -e end; do sleep 0.05; done`)
	r.pid(t, "parent")
	until(t, "there is no zombie of the guard's", func() bool {
		output, err := exec.Command("ps", "-A", "-o", "stat=,ppid=").Output()
		if err != nil {
			t.Fatal(err)
		}
		guard := strconv.Itoa(parentOf(t, r.pid(t, "parent")))
		for line := range strings.Lines(string(output)) {
			fields := strings.Fields(line)
			if fields[1] == guard && fields[0][0] == 'Z' {
				return false
			}
		}
		return true
	})
	r.touch(t, "end")
	r.ends(t, 0)
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	output, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	parent, err := strconv.Atoi(strings.TrimSpace(string(output)))
	if err != nil {
		t.Fatal(err)
	}
	return parent
}

// Where the first process reaps nothing, the lock is free all the same.
func TestCallerKilledWhereNobodyReaps(t *testing.T) {
	onLinux(t)
	if os.Getuid() != 0 {
		testneed.Missing(t, errors.New("a process namespace takes root"))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &run{dir: dir}
	outer := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c",
		`"$0" caller lock /bin/sh -c 'timeout 1000 sh -c "touch in; sleep 1000" & (setsid sleep 1000 &) ; wait' & echo $! >caller
		until test -e in; do sleep 0.05; done
		kill -9 $!; touch killed
		exec sleep 5`, self)
	outer.Dir = dir
	if err := outer.Start(); err != nil {
		testneed.Missing(t, err)
	}
	defer func() {
		_ = outer.Process.Kill()
		_ = outer.Wait()
	}()
	until(t, "the caller is killed", func() bool {
		_, err := os.Stat(filepath.Join(r.dir, "killed"))
		return err == nil
	})
	began := time.Now()
	until(t, "the lock is free", func() bool { return free(t, dir) })
	if took := time.Since(began); took > 3*time.Second { // a guard that waits for who does not reap takes five
		t.Errorf("it took %v", took)
	}
}

// What is passed on reaches the command, and signals that mean nothing to its
// children do not end them.
func TestSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGHUP, syscall.SIGCONT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			r := start(t, fmt.Sprintf(`trap 'note got' %d; note parent; until test -e got; do sleep 0.05; done; exit 5`, int(s)))
			r.pid(t, "parent")
			r.signal(t, s)
			r.pid(t, "got")
			r.ends(t, 5)
		})
	}
	t.Run("to the command alone", func(t *testing.T) {
		r := start(t, `trap 'note got' USR1; sh -c 'echo $$ >child; exec sleep 1000' & note parent; wait; wait`)
		child := r.pid(t, "child")
		r.pid(t, "parent")
		r.signal(t, syscall.SIGUSR1)
		r.pid(t, "got")
		if !alive(child) {
			t.Error("its child is gone")
		}
	})
}

// The guard and the gate are this program even if its file is gone.
func TestExecutableRemoved(t *testing.T) {
	onLinux(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, content, 0o700); err != nil {
		t.Fatal(err)
	}
	hold := command(t, dir, `note in; until test -e out; do sleep 0.05; done`)
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	r := &run{cmd: command(t, dir, `note ran`), dir: dir, ended: make(chan struct{})}
	r.pid(t, "in")
	r.cmd.Path = program
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "it waits", func() bool {
		stat, err := os.ReadFile(fmt.Sprint("/proc/", r.cmd.Process.Pid, "/wchan"))
		return err != nil || strings.Contains(string(stat), "lock") || string(stat) == "0"
	})
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	r.touch(t, "out")
	if err := errors.Join(hold.Wait(), r.cmd.Wait()); err != nil {
		t.Error(err)
	}
	r.pid(t, "ran")
}

// A file that cannot be executed leaves nothing behind.
func TestNotExecutable(t *testing.T) {
	dir := t.TempDir()
	cmd := command(t, dir, "")
	cmd.Args = append(cmd.Args[:3], "/dev/null")
	cmd.Stdout, cmd.Stderr = nil, nil
	output, _ := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 126 {
		t.Errorf("exit code %d: %s", code, output)
	}
	if !free(t, dir) {
		t.Error("the lock is not free")
	}
}
