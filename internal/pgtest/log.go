package pgtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// logTail is the end of the sandbox's log, headed, for an error message; it is
// empty where nothing has been logged.
func (b *sandbox) logTail() string {
	const most = 2 << 10
	log, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil || len(log) == 0 {
		return ""
	}
	return fmt.Sprintf("log:\n%s", log[max(0, len(log)-most):])
}

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
