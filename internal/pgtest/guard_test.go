//go:build unix

package pgtest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// However a process ends, its server and its PgBouncer end with it and their
// directories go.
func TestNothingOutlivesTheProcess(t *testing.T) {
	pgtest.Need(t)
	for name, sig := range map[string]os.Signal{
		"exit":    nil,
		"SIGINT":  syscall.SIGINT,
		"SIGTERM": syscall.SIGTERM,
		"SIGKILL": syscall.SIGKILL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startChild(t)
			server, bouncer := c.readDSN(t), c.readDSN(t)
			pid := c.postmaster(t)
			c.end(t, sig)
			testneed.Until(t, "the postmaster is gone", func() bool { return !running(pid) })
			testneed.Until(t, "nobody listens at "+server, func() bool { return !listening(server) })
			testneed.Until(t, "nobody listens at "+bouncer, func() bool { return !listening(bouncer) })
			testneed.Until(t, c.dir+" is empty", c.leftNothing)
		})
	}
}

// A server that is still being made is cleared up as well.
func TestNothingOutlivesAKillDuringInitdb(t *testing.T) {
	t.Parallel()
	c := startChild(t, "HOME=", "XDG_CACHE_HOME=") // where no cluster is kept
	testneed.Until(t, "initdb has begun", func() bool {
		found, err := filepath.Glob(filepath.Join(c.dir, "pgtest-*", "data", "base"))
		return err == nil && len(found) == 1
	})
	c.end(t, syscall.SIGKILL)
	testneed.Until(t, c.dir+" is empty", c.leftNothing)
}

// A childProcess is this test program, started again to run [child].
type childProcess struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	dir    string // its TMPDIR
}

func startChild(t *testing.T, env ...string) *childProcess {
	t.Helper()
	dir := publicDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childVariable+"=1", "TMPDIR="+dir), env...)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // ends the child, where that is still to do
		cmd.Wait()    // whose status is the test's doing
	})
	return &childProcess{cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout), dir: dir}
}

// readDSN reads the next line that the child prints.
func (c *childProcess) readDSN(t *testing.T) string {
	t.Helper()
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the child process printed no DSN: %v", err)
	}
	return strings.TrimSpace(line)
}

// end sends the child the signal, or the news that it may exit where sig is nil.
func (c *childProcess) end(t *testing.T, sig os.Signal) {
	t.Helper()
	var err error
	if sig == nil {
		err = c.stdin.Close()
	} else {
		err = c.cmd.Process.Signal(sig)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// postmaster returns the process id of the child's server.
func (c *childProcess) postmaster(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.dir, "pgtest-*", "data", "postmaster.pid"))
	if err != nil || len(files) != 1 {
		t.Fatalf("want one postmaster.pid, found %v (error %v)", files, err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func (c *childProcess) leftNothing() bool {
	entries, err := os.ReadDir(c.dir)
	return err == nil && len(entries) == 0
}

func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	// One that ended but waits for its parent still has its number.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !bytes.Contains(stat, []byte(") Z "))
}

func listening(dsn string) bool {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return true
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
