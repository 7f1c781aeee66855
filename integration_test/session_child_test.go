package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// Tests of what happens to the locks of a process need one that they can do it
// to: this test binary, told by its environment to run TestSessionChild.
const (
	childRole = "PGADVISORY_TEST_CHILD"
	childDSN  = "PGADVISORY_TEST_DSN"
)

// The options of children.
var childOptions = sessionlock.Options{Check: 100 * time.Millisecond, DeadClient: 4 * time.Second}

var childKey = hashkey.Name("child")

// TestSessionChild is what a child runs until its stdin ends.
func TestSessionChild(t *testing.T) {
	t.Parallel()
	role := os.Getenv(childRole)
	if role == "" {
		t.Skip("runs in a process of its own, for other tests")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	locker := sessionlock.New(openDB(t, os.Getenv(childDSN))).With(childOptions)
	var err error
	switch role {
	case "hold":
		err = holdUntil(ctx, locker)
	case "lead":
		err = locker.Lead(ctx, childKey, reportLeadership)
	}
	if err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
}

func holdUntil(ctx context.Context, l *sessionlock.Locker) error {
	k, err := l.Lock(ctx, childKey)
	if err != nil {
		return err
	}
	fmt.Println("locked")
	<-ctx.Done()
	return k.Unlock()
}

// reportLeadership says when a leadership begins, as which, and when it ends.
func reportLeadership(ctx context.Context) error {
	token, err := sessionlock.FromContext(ctx).Token(ctx)
	if err != nil {
		return err
	}
	fmt.Println("leads", token, time.Now().UnixNano())
	<-ctx.Done()
	fmt.Println("ends", token, time.Now().UnixNano())
	return context.Cause(ctx)
}

// child is a running child.
type child struct {
	cmd   *osexec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when it is gone

	mu  sync.Mutex
	out []string // guarded by mu; the lines that it has written
}

// startChild starts a child, through the command that wrap is the beginning
// of. It ends with the test at the latest.
func startChild(tb testing.TB, role, dsn string, wrap ...string) *child {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	args := append(wrap, self, "-test.run=^TestSessionChild$")
	c := &child{cmd: osexec.Command(args[0], args[1:]...), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childRole+"="+role, childDSN+"="+dsn)
	c.cmd.Stderr = os.Stderr
	stdout, err := c.cmd.StdoutPipe()
	if err == nil {
		c.stdin, err = c.cmd.StdinPipe()
	}
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	go c.read(stdout)
	tb.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may have ended by itself
		<-c.done
	})
	return c
}

func (c *child) read(stdout io.Reader) {
	defer close(c.done)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		c.mu.Lock()
		c.out = append(c.out, lines.Text())
		c.mu.Unlock()
	}
	_ = c.cmd.Wait() // how it ended is the business of whoever ended it
}

// lines returns what the child has written so far, of lines that begin with
// one of words.
func (c *child) lines(words ...string) [][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all [][]string
	for _, line := range c.out {
		fields := strings.Fields(line)
		for _, word := range words {
			if len(fields) > 0 && fields[0] == word {
				all = append(all, fields)
			}
		}
	}
	return all
}
