package pgtest

import (
	"context"
	"testing"
)

// Stop stops the server as an administrator would: it ends open sessions,
// writes everything out and refuses connections from then on. Restart brings
// it back. It fails the test if the server is not one that this process
// started.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.ctl(tb, "stop", "-m", "fast")
}

// Crash stops the server without any goodbye, as a crash of it would: sessions
// break off, and [Server.Restart] has to recover.
func (s *Server) Crash(tb testing.TB) {
	tb.Helper()
	s.ctl(tb, "stop", "-m", "immediate")
}

// Restart stops the server, if it runs, and starts it on the same port. It
// accepts connections when Restart returns. Like Stop it is for a [Dedicated]
// server: other tests may be using the one of [New].
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.ctl(tb, "restart", "-m", "fast")
}

func (s *Server) ctl(tb testing.TB, args ...string) {
	tb.Helper()
	if s.cluster == nil {
		tb.Fatalf("pgtest: cannot %s the server at DATABASE_URL; the test needs pgtest.Dedicated", args[0])
	}
	// Not tb's context: a Cleanup may want to restart what its test stopped.
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.cluster.ctl(ctx, args...); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	s.down.Store(args[0] == "stop")
}
