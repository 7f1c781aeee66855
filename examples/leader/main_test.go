package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// asProgram makes the test binary the program.
const asProgram = "LEADER_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(pgtest.Main(m))
}

// process is one running copy of the program.
type process struct {
	cmd   *exec.Cmd
	ended chan error

	mu    sync.Mutex
	lines []string // guarded by mu
}

func start(t *testing.T, dsn string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self, "-db", dsn, "-every", "20ms"), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-gone
	})
	return p
}

// ticks returns the ticks of p so far.
func (p *process) ticks(t *testing.T) []int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var ticks []int
	for _, line := range p.lines {
		if _, number, ok := strings.Cut(line, " ticks "); ok {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			ticks = append(ticks, n)
		}
	}
	return ticks
}

// leader waits until one of processes ticks, and for the third tick of it.
func leader(t *testing.T, processes []*process) int {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for i, p := range processes {
			if len(p.ticks(t)) >= 3 {
				return i
			}
		}
	}
	t.Fatal("nobody leads")
	return -1
}

// Of three, one ticks. When it is killed, or asked to stop, another goes on.
func TestThreeProcesses(t *testing.T) {
	dsn := pgtest.New(t).Database(t)
	processes := []*process{start(t, dsn), start(t, dsn), start(t, dsn)}
	last := 0
	for _, signal := range []os.Signal{os.Kill, syscall.SIGTERM, syscall.SIGTERM} {
		i := leader(t, processes)
		p := processes[i]
		processes = append(processes[:i:i], processes[i+1:]...)
		for _, other := range processes {
			if n := len(other.ticks(t)); n != 0 {
				t.Errorf("another process ticked %d times", n)
			}
		}
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := <-p.ended; signal != os.Kill && errors.As(err, &exit) {
			t.Errorf("asked to stop, it ended with %v", err)
		}
		for _, tick := range p.ticks(t) {
			if tick <= last {
				t.Errorf("tick %d after tick %d", tick, last)
			}
			last = tick
		}
	}
}

func TestUsage(t *testing.T) {
	var stdout, stderr strings.Builder
	for _, every := range []string{"often", "0s", "-1s"} {
		stderr.Reset()
		code := run(t.Context(), []string{"-db", "postgres://%zz", "-every", every}, &stdout, &stderr)
		if code != 2 || !strings.Contains(stderr.String(), "-every") {
			t.Errorf("-every %s: exit code %d: %s", every, code, stderr.String())
		}
	}
	if code := run(t.Context(), []string{"-db", "postgres://%zz"}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
