package pgtest

import (
	"context"
	"fmt"
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
	// Not tb's context: a Cleanup may want to restart what its test stopped.
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.Control(ctx, args...); err != nil {
		tb.Fatal(err)
	}
}

// Control runs pg_ctl for the server, with arguments such as "restart", "-m",
// "immediate", and returns when that is done. It is for programs without a
// test, and for what [Server.Stop], [Server.Crash] and [Server.Restart] do not
// do.
func (s *Server) Control(ctx context.Context, args ...string) error {
	if s.cluster == nil {
		return fmt.Errorf("pgtest: cannot %s the server at DATABASE_URL; Dedicated and Start have one of their own", args[0])
	}
	if err := s.cluster.ctl(ctx, args...); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	s.down.Store(args[0] == "stop")
	return nil
}
