package pgtest

import (
	"context"
	"fmt"
	"os"
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
	shared.once.Do(func() {
		// Not tb's context: the server outlives the test that came first.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		shared.server, shared.err = Open(ctx)
	})
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server
}

// Main runs the tests, then stops the server that [New] started, and returns
// the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// A package may do without: its server is stopped soon after the process ends.
// With Main that has happened when the process ends.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.server == nil {
		return code
	}
	if err := shared.server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}
