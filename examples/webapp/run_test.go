package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

func TestWrongFlags(t *testing.T) {
	for _, test := range []struct {
		args string
		want string // on stderr
	}{
		{"-nonsense", "-nonsense"},
		{"nonsense", `"nonsense"`},
		{"-listen 127.0.0.1:0", "without -db"},
		{"-db=", "-db is empty"},
		{"-style gorm", `-style is "gorm"`},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr); code != exitUsage {
			t.Errorf("webapp %s: exit code %d, want %d", test.args, code, exitUsage)
		}
		if got := stderr.String(); !strings.Contains(got, test.want) || strings.Count(got, "usage:") != 1 {
			t.Errorf("webapp %s: stderr is %q, want %s and the usage", test.args, got, test.want)
		}
		if stdout.Len() > 0 {
			t.Errorf("webapp %s: stdout is %q, want nothing", test.args, &stdout)
		}
	}
}

func TestHelp(t *testing.T) {
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, io.Discard, &stderr); code != exitOK || !strings.Contains(stderr.String(), "usage:") {
		t.Errorf("exit code %d, stderr %q, want %d and the usage", code, &stderr, exitOK)
	}
}

func TestFailuresNameTheirCause(t *testing.T) {
	dsn := pgtest.New(t).Scratch(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct {
		db, listen string
		want       string // on stderr
	}{
		{"postgres://127.0.0.1:port/bank", "127.0.0.1:0", "-db"},
		{"postgres://127.0.0.1:1/bank?sslmode=disable", "127.0.0.1:0", "127.0.0.1:1"},
		{dsn, "nowhere", "nowhere"},
		{dsn, taken.Addr().String(), taken.Addr().String()},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), []string{"-db", test.db, "-listen", test.listen}, io.Discard, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("-db %s -listen %s: exit code %d, stderr %q, want %d and %q",
				test.db, test.listen, code, &stderr, exitFailed, test.want)
		}
	}
}

func TestShutdownFinishesTheRequestInFlight(t *testing.T) {
	dsn := pgtest.New(t).Scratch(t)
	db := newTestDB(t, dsn)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	url, exited := startServing(ctx, t, dsn)
	s := &service{db: db, locker: xactlock.New(db), url: url}
	s.put(t, "/accounts/1", "balance=100")

	inFlight := make(chan reply, 1)
	s.whileHeld(t, accountLocks.ID(1), func() {
		go func() { inFlight <- s.post(t, "/accounts/1/withdraw", "amount=1") }()
		until(t, "the request waits for the lock", func() bool { return waiters(t, db) == 1 })
		stop()
		until(t, "no new connection is accepted", func() bool { return !accepts(url) })
	})
	if got, want := <-inFlight, (reply{status: http.StatusOK, body: `{"balance":99}`}); got != want {
		t.Errorf("the request in flight: %v, want %v", got, want)
	}
	if code := <-exited; code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
}

// startServing runs the program with -db and returns when it serves.
func startServing(ctx context.Context, t *testing.T, dsn string) (url string, exited <-chan int) {
	t.Helper()
	stdout, w := io.Pipe()
	codes := make(chan int, 1)
	go func() {
		codes <- run(ctx, []string{"-db", dsn, "-listen", "127.0.0.1:0"}, w, t.Output())
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the program ended before it served: %v", err)
	}
	_, url, ok := strings.Cut(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Fatalf("stdout begins with %q, want the address", line)
	}
	return url, codes
}

func accepts(url string) bool {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
