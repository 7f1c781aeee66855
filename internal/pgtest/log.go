package pgtest

import (
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
