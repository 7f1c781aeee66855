package pgtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
)

// shared is the server of this process's tests.
var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// New returns the server that all tests of this process share: the one at
// DATABASE_URL, or one that the first call starts. It fails the test if there
// is none, with a message that says how to get one.
func New(tb testing.TB) *Server {
	tb.Helper()
	s, err := Shared()
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	return s
}

// Shared is [New] for a package with messages of its own: the error says what to
// install, without a prefix.
func Shared() (*Server, error) {
	shared.once.Do(func() {
		// Not a test's context: the server outlives the test that came first.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		shared.server, shared.err = open(ctx)
	})
	return shared.server, shared.err
}

// Main runs the tests, then the checks, then stops the server that [New]
// started, and returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// A check is for what the tests together must not leave behind. Its argument
// is New's server, or nil if no test has asked for one. An error of a check
// fails the run.
//
// A package may do without Main: its server is stopped soon after the process
// ends. With Main that has happened when the process ends.
func Main(m *testing.M, checks ...func(*Server) error) int {
	return runAll(m.Run, checks)
}

func runAll(tests func() int, checks []func(*Server) error) int {
	code := tests()
	if shared.server != nil {
		shared.server.closeCleaners()
		checks = append(slices.Clip(checks), (*Server).Close)
	}
	for _, check := range checks {
		if err := check(shared.server); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}
