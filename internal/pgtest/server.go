package pgtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// A Server is a running PostgreSQL. Its methods may be called concurrently,
// but for Stop, Crash and Restart.
type Server struct {
	dsn     string
	cluster *cluster    // nil for the server at DATABASE_URL
	down    atomic.Bool // stopped by the test, not restarted since
	scratch scratch
}

// scratch holds the databases that one test after the other uses.
type scratch struct {
	mu   sync.Mutex
	free []*scratchDatabase
	all  []*scratchDatabase
}

// scratchDatabase is one of them. The connection that clears it stays open, as a
// connection costs more than all that is done on it.
type scratchDatabase struct {
	name string
	conn *pgx.Conn // nil before the first time
}

// String says which server it is, without a password.
func (s *Server) String() string {
	if s.cluster == nil {
		return "the server at DATABASE_URL"
	}
	return "a server that the tests have started"
}

// DSN is the URL of the server's maintenance database, for pgx and lib/pq.
// Tests that leave something behind use a [Server.Database] of their own.
func (s *Server) DSN() string { return s.dsn }

// Log returns the server's log so far. A server that another program runs has
// none here.
func (s *Server) Log() (string, error) {
	if s.cluster == nil {
		return "", errors.New("pgtest: the log of a server at DATABASE_URL is not known")
	}
	log, err := os.ReadFile(filepath.Join(s.cluster.dir, "log"))
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	return string(log), nil
}
