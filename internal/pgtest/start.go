package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// startTimeout bounds the start of a server. It takes about a second; a busy
// machine may need a while.
const startTimeout = 2 * time.Minute

// Start starts a server of the caller's own, on a free port of 127.0.0.1. The
// settings are lines of postgresql.conf, such as "max_connections = 20".
//
// The caller keeps the Server, and calls Close at the end: one that is
// garbage is stopped too. An error leaves nothing behind; it names
// what is missing, or holds the end of the server's log.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	s, err := start(ctx, settings...)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, settings ...string) (*Server, error) {
	c, err := newCluster(ctx, settings)
	if err != nil {
		return nil, err
	}
	return &Server{dsn: c.dsn(), cluster: c}, nil
}

// Open returns the server at DATABASE_URL, which it does not try to reach, or
// does what [Start] does where that is not set.
func Open(ctx context.Context) (*Server, error) {
	s, err := open(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	return s, nil
}

func open(ctx context.Context) (*Server, error) {
	if dsn := os.Getenv("DATABASE_URL"); dsn != "" {
		return &Server{dsn: dsn}, nil
	}
	return start(ctx)
}

// Close stops the server, which disconnects its clients, and removes its data.
// A server which this process did not start goes on, without the databases of
// [Server.Scratch].
func (s *Server) Close() error {
	if s.cluster == nil {
		return s.dropScratch()
	}
	if err := s.cluster.close(); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// Dedicated starts a server for tb alone, as [Start] does, and stops it at the
// end of the test. A server that cannot be started fails the test, except that
// the test is skipped where DATABASE_URL is set, there are no server programs
// and CI is not set.
func Dedicated(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	s, err := Start(ctx, settings...)
	if errors.Is(err, errNoServer) && os.Getenv("DATABASE_URL") != "" {
		missing(tb, err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	closeAfter(tb, s)
	return s
}

func closeAfter(tb testing.TB, s *Server) {
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
}
