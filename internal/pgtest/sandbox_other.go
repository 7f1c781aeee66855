//go:build !unix

package pgtest

import (
	"context"
	"errors"
	"os/exec"
)

type sandbox struct{ dir string }

func newSandbox(stop ...string) (*sandbox, error) {
	return nil, errors.New("servers can be started on Unix only; set DATABASE_URL to use a running one")
}

func (b *sandbox) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

func (b *sandbox) close() error { return nil }
