//go:build unix

package main

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// patience bounds every wait for a state. It is generous, because what ends in
// it is a test that fails anyway.
const patience = 60 * time.Second

var (
	until   = testneed.Until
	reached = testneed.Reached
)

func openDB(tb testing.TB, dsn string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

// countLocks returns how many advisory locks are held or waited for, or -1.
func countLocks(db *sql.DB) (n int) {
	err := db.QueryRow(`select count(*) from pg_locks where locktype = 'advisory'
		and database = (select oid from pg_database where datname = current_database())`).Scan(&n)
	if err != nil {
		return -1
	}
	return n
}

// process is a running withlock.
type process struct {
	cmd    *exec.Cmd
	dir    string // where it runs
	ended  chan struct{}
	stderr bytes.Buffer // to be read when it has ended
}

// start starts withlock with DATABASE_URL set to dsn, in a directory of its own.
func start(tb testing.TB, dsn string, args ...string) *process {
	tb.Helper()
	return startIn(tb, tb.TempDir(), dsn, args...)
}

func startIn(tb testing.TB, dir, dsn string, args ...string) *process {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"withlock"}, args...)
	return startCommand(tb, dir, dsn, cmd)
}

// startCommand starts a command that becomes withlock.
func startCommand(tb testing.TB, dir, dsn string, cmd *exec.Cmd) *process {
	tb.Helper()
	p := &process{cmd: cmd, dir: dir, ended: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
	if p.cmd.Stderr == nil {
		p.cmd.Stderr = &p.stderr
	}
	p.cmd.WaitDelay = patience // of a command that lives on with its stderr
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // p.code looks at it
	}()
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
	})
	return p
}

// code waits for the end of p and returns its exit code, as a shell has it.
func (p *process) code(tb testing.TB) int {
	tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		tb.Fatal("withlock does not end")
	}
	tb.Logf("stderr: %s", &p.stderr)
	return shellCode(p.cmd.ProcessState)
}

// ends checks how p ends.
func (p *process) ends(tb testing.TB, want int) {
	tb.Helper()
	if got := p.code(tb); got != want {
		tb.Errorf("exit code %d, want %d", got, want)
	}
}

func (p *process) signal(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		tb.Fatal(err)
	}
}

// pid waits for a file of p's directory that has a process number, and a
// newline to show that it is complete.
func (p *process) pid(tb testing.TB, file string) int {
	tb.Helper()
	var text string
	until(tb, "there is a pid in "+file, func() bool {
		b, err := os.ReadFile(filepath.Join(p.dir, file))
		text = string(b)
		return err == nil && strings.HasSuffix(text, "\n")
	})
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		tb.Fatal(err)
	}
	return pid
}

// touch creates a file in p's directory.
func (p *process) touch(tb testing.TB, file string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, file), nil, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// alive reports whether there is such a process. A zombie is none: whether it
// has been reaped is up to whoever is its parent.
func alive(pid int) bool {
	s := state(pid)
	return s != "" && !strings.HasPrefix(s, "Z")
}

// state returns the state of a process as ps has it, "" if there is none.
func state(pid int) string {
	output, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output() // fails if there is none
	if errors.Is(err, exec.ErrNotFound) {
		panic("these tests need ps (Debian: procps)")
	}
	return strings.TrimSpace(string(output))
}

// tryLock reports whether the lock is free.
func tryLock(tb testing.TB, db *sql.DB, key hashkey.Key) bool {
	tb.Helper()
	lock, err := sessionlock.New(db).TryLock(tb.Context(), key)
	if errors.Is(err, sessionlock.ErrNotAcquired) {
		return false
	}
	if err != nil {
		tb.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		tb.Fatal(err)
	}
	return true
}

// backend returns the pid of the session that has a lock.
func backend(tb testing.TB, db *sql.DB) int {
	tb.Helper()
	var pid int
	if err := db.QueryRow(`select pid from pg_locks where locktype = 'advisory' and granted
		and database = (select oid from pg_database where datname = current_database())`).Scan(&pid); err != nil {
		tb.Fatal(err)
	}
	return pid
}
