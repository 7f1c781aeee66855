package pgtest

import (
	"os"
	"testing"
)

var (
	NewestFirst = newestFirst
	MemoryDir   = memoryDir
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

// RemoveBlanks removes the directories that new clusters are copied from, as the end
// of a test does where TMPDIR was its own.
func RemoveBlanks(tb testing.TB) {
	blanks.mu.Lock()
	defer blanks.mu.Unlock()
	if len(blanks.byBin) == 0 {
		tb.Error("there is none")
	}
	for _, c := range blanks.byBin {
		if err := os.RemoveAll(c.data()); err != nil {
			tb.Error(err)
		}
	}
}
