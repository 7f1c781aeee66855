//go:build !unix

package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"syscall"
)

// Without process groups a command cannot be stopped together with all that it
// has started, and a lock that does not promise that is better not taken. What
// needs no command, --list and --doctor, works.
var errUnsupported = failuref(exitNotExecutable, "running commands is not supported on %s; --list and --doctor are", runtime.GOOS)

var passedOn = []os.Signal{syscall.SIGTERM, syscall.SIGINT}

func asHelper() {}

func ends(os.Signal) bool { return true }

func (ending) die() {}

type guard struct{}

func (*guard) Dismiss() {}

func (p *program) post(string) (*guard, error) { return nil, errUnsupported }

func (p *program) execute(_ context.Context, h *hold, _ *guard, _ chan os.Signal) (ending, error) {
	return ending{}, errors.Join(errUnsupported, h.Unlock())
}
