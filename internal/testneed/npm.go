package testneed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// AdvisoryLock returns a directory in which node finds the npm package of that name,
// and node_modules/.bin/withlock is its command. The package is installed into the
// user's cache, once.
func AdvisoryLock(tb testing.TB) (dir string) {
	tb.Helper()
	_, noNode := exec.LookPath("node")
	_, noNPM := exec.LookPath("npm")
	if err := errors.Join(noNode, noNPM); err != nil {
		Missing(tb, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = tb.TempDir()
	}
	dir = filepath.Join(cache, "pgadvisory", advisoryLock)
	if installed(dir) {
		return dir
	}
	if err := install(tb.Context(), dir); err != nil && !installed(dir) { // another process may have been first
		Missing(tb, err)
	}
	return dir
}

const advisoryLock = "advisory-lock@2.0.0"

func installed(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

// install makes dir, whole or not at all.
func install(ctx context.Context, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "npm-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--prefix", fresh, "--ignore-scripts", "--no-audit", "--no-fund", advisoryLock)
	if output, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm install: %w\n%s", err, output)
	}
	return os.Rename(fresh, dir)
}
