//go:build !unix

package main

import (
	"context"
	"os"
	"runtime"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// Without process groups a command cannot be stopped together with all that it
// has started, and a lock that does not promise that is better not taken. What
// needs no command, --list above all, works.
var errUnsupported = failuref(exitNotExecutable, "running commands is not supported on %s; --list is", runtime.GOOS)

func asHelper([]string) (code int, ok bool) { return 0, false }

func (p *program) execute(context.Context, *sessionlock.Lock, string, []string, <-chan os.Signal) (int, error) {
	return 0, errUnsupported
}
