package pgtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
)

// Standby starts a hot standby of the server, which replicates it and accepts
// readers, and stops it at the end of the test. The server is restarted on the
// way, so it is one that [Dedicated] or [Start] has started.
func (s *Server) Standby(tb testing.TB) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	standby, err := s.StartStandby(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	closeAfter(tb, standby)
	return standby
}

// StartStandby is [Server.Standby] for a program without a test: the caller ends
// the standby with Close. The server's own settings are the standby's, too.
func (s *Server) StartStandby(ctx context.Context) (*Server, error) {
	if s.cluster == nil {
		return nil, errors.New("pgtest: the server at DATABASE_URL can have no standby here")
	}
	c, err := openCluster(s.cluster.bin)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	standby := &Server{cluster: c}
	if err := standby.Follow(ctx, s); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	return standby, nil
}

// Follow makes a server that is stopped a hot standby of another one, on the port
// that it had. What it knew is lost: it gets a copy of the primary's data. The
// primary is restarted on the way. After an error it may be stopped.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	if err := primary.Control(ctx, "stop", "-m", "fast"); err != nil {
		return err
	}
	copied := s.cluster.copyFrom(ctx, primary.cluster)
	if err := errors.Join(copied, primary.Control(ctx, "start")); err != nil {
		return err
	}
	if err := s.cluster.follow(ctx, primary.cluster); err != nil {
		return fmt.Errorf("pgtest: start a standby: %w", err)
	}
	s.dsn = s.cluster.dsn()
	s.down.Store(false)
	return nil
}

// copyFrom replaces the data by that of primary. Neither server runs.
func (c *cluster) copyFrom(ctx context.Context, primary *cluster) error {
	// Through programs, as the files shall belong to the server's account.
	if err := c.run(ctx, "/bin/rm", "-rf", c.data()); err != nil {
		return err
	}
	return c.run(ctx, "/bin/cp", "-a", primary.data(), c.data())
}

// follow starts the server as a standby of primary.
func (c *cluster) follow(ctx context.Context, primary *cluster) error {
	conninfo := fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=%s'", primary.port, superuser)
	if err := c.configure([]string{conninfo}); err != nil {
		return err
	}
	if err := c.run(ctx, "/usr/bin/touch", filepath.Join(c.data(), "standby.signal")); err != nil {
		return err
	}
	if c.port == 0 {
		return c.firstStart(ctx)
	}
	if err := c.configure([]string{"port = " + strconv.Itoa(c.port)}); err != nil {
		return err
	}
	return c.ctl(ctx, "start")
}
