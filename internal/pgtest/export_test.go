package pgtest

import "testing"

var (
	NewestFirst = newestFirst
	MemoryDir   = memoryDir
	FindServer  = findServer
)

// RunChecks is Main for other tests than this program's, which ask for no
// server.
func RunChecks(tests func() int, checks ...func(*Server) error) int {
	server := shared.server
	shared.server = nil
	defer func() { shared.server = server }()
	return runAll(tests, checks)
}

// HidePrograms makes the usual places empty for the rest of the test.
func HidePrograms(t *testing.T) {
	servers, bouncers := serverDirs, bouncerDirs
	serverDirs, bouncerDirs = nil, nil
	t.Cleanup(func() { serverDirs, bouncerDirs = servers, bouncers })
}
