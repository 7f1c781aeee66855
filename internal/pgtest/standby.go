package pgtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

// Standby starts a hot standby of the server, which replicates it and accepts
// readers, and stops it at the end of the test. The server is restarted on the
// way, so it is one that [Dedicated] or [Start] has started.
func (s *Server) Standby(tb testing.TB) *Server {
	tb.Helper()
	s.Stop(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	standby, err := s.cluster.copy(ctx)
	if err != nil {
		tb.Fatalf("pgtest: copy the primary: %v", err)
	}
	server := &Server{cluster: standby}
	closeAfter(tb, server)
	s.Restart(tb)
	if err := standby.follow(ctx, s.cluster); err != nil {
		tb.Fatalf("pgtest: start a standby: %v", err)
	}
	server.dsn = standby.dsn()
	return server
}

// copy makes a cluster with the data of c, whose server does not run.
func (c *cluster) copy(ctx context.Context) (*cluster, error) {
	twin, err := openCluster(c.bin)
	if err != nil {
		return nil, err
	}
	// Through a program, as the files shall belong to the server's account.
	if output, err := twin.command(ctx, "cp", "-R", c.data(), twin.data()).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("cp: %w\n%s", err, output), twin.close())
	}
	return twin, nil
}

// follow starts the server as a standby of primary.
func (c *cluster) follow(ctx context.Context, primary *cluster) error {
	conninfo := fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=%s'", primary.port, superuser)
	if err := c.configure([]string{conninfo}); err != nil {
		return err
	}
	signal := filepath.Join(c.data(), "standby.signal")
	if output, err := c.command(ctx, "touch", signal).CombinedOutput(); err != nil {
		return fmt.Errorf("touch: %w\n%s", err, output)
	}
	return c.firstStart(ctx)
}
