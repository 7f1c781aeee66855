//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
)

// startLogged starts a withlock whose output can be read while it runs.
func startLogged(t *testing.T, dsn string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Args = append([]string{"withlock"}, args...)
	cmd.Stdout, cmd.Stderr = log, log
	return startCommand(t, dir, dsn, cmd)
}

// logged returns the output so far.
func (p *process) logged(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// says waits until a text is in the output.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	until(t, "it says "+text, func() bool { return strings.Contains(p.logged(t), text) })
}

// forSome is what is said of a server that was waited for in vain, from its first refusal
// to the last.
var forSome = regexp.MustCompile(`^withlock: no database for \d+s: `)

// A server that is starting, or full, is waited for as the lock is.
func TestServerIsNotReady(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"starting": "57P03", "full": "53300"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			between := newProxy(t, newDatabase(t))
			between.set(func(p *proxy) { p.refuse = code })
			waiter := startLogged(t, between.dsn, "-v", "-w", "10m", "job", "true")
			start(t, between.dsn, "-n", "job", "touch", "ran").ends(t, exitNoDatabase)
			short := startLogged(t, between.dsn, "-w", "3s", "job", "touch", "ran")
			short.ends(t, exitNoDatabase)
			if got := short.logged(t); !forSome.MatchString(got) || !strings.Contains(got, "the test says so") {
				t.Errorf("stderr: %s", got)
			}
			waiter.says(t, "waiting for the server: ")
			between.set(func(p *proxy) { p.refuse = "" })
			waiter.ends(t, 0)
		})
	}
}

// --connect-wait waits for a server that cannot be reached at all.
func TestConnectWait(t *testing.T) {
	t.Parallel()
	between := newProxy(t, newDatabase(t))
	between.set(func(p *proxy) { p.refuse = "EOF" })
	waiter := startLogged(t, between.dsn, "-v", "-n", "--connect-wait", "10m", "job", "true")
	start(t, between.dsn, "-w", "10m", "job", "touch", "ran").ends(t, exitNoDatabase)
	start(t, "postgres://127.0.0.1:1/none", "--connect-wait", "200ms", "-w", "10m", "job", "touch", "ran").ends(t, exitNoDatabase)
	waiter.says(t, "waiting for the server: ")
	between.set(func(p *proxy) { p.refuse = "" })
	waiter.ends(t, 0)
}

// More waiters than the server has connections wait all the same.
func TestMoreWaitersThanConnections(t *testing.T) {
	t.Parallel()
	between := newProxy(t, newDatabase(t))
	holder := start(t, between.dsn, "job", "--", "sh", "-c", `echo $$ >parent; until test -e end; do sleep 0.05; done`)
	holder.pid(t, "parent")
	between.set(func(p *proxy) { p.most = 2 })
	first := startLogged(t, between.dsn, "-v", "job", "true")
	first.says(t, "waiting: ")
	var more []*process
	for range 2 {
		p := startLogged(t, between.dsn, "-v", "job", "true")
		p.says(t, "waiting for the server: ")
		more = append(more, p)
	}
	holder.touch(t, "end")
	holder.ends(t, 0)
	first.ends(t, 0)
	for _, p := range more {
		p.ends(t, 0)
	}
}

// A waiter gets the lock of a server that has been restarted, unless it is told
// not to wait for one that is away.
func TestWaiterRidesOutARestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	dsn := leakChecked(t, server.Database(t))
	holder := start(t, dsn, "job", "--", "sh", "-c", family)
	holder.pid(t, "child")
	waiter := startLogged(t, dsn, "-v", "-w", "10m", "job", "true")
	impatient := startLogged(t, dsn, "-v", "--connect-wait", "0s", "-w", "10m", "job", "true")
	for _, p := range []*process{waiter, impatient} {
		p.says(t, "waiting: ")
	}
	server.Stop(t)
	holder.ends(t, exitLost)
	impatient.ends(t, exitNoDatabase)
	waiter.says(t, "waiting for the server: ")
	server.Restart(t)
	waiter.ends(t, 0)
}

// With --dead-client a network that swallows everything is noticed before the
// server gives the lock away.
func TestDeadClient(t *testing.T) {
	t.Parallel()
	between := newProxy(t, newDatabase(t))
	p := start(t, between.dsn, "--dead-client", "1500ms", "job", "--", "sh", "-c", family)
	p.pid(t, "child")
	between.set(func(p *proxy) { p.frozen = true })
	began := time.Now()
	p.ends(t, exitLost)
	if took := time.Since(began); took > pulse.Default {
		t.Errorf("that took %v", took)
	}
}
