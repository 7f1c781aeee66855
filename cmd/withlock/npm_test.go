//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// With --key advisory-lock, this withlock and the one of the npm package
// exclude each other on a name.
func TestNPM(t *testing.T) {
	theirs := filepath.Join(testneed.AdvisoryLock(t), "node_modules", ".bin", "withlock")
	const wait = `echo $$ >parent; until test -e end; do sleep 0.05; done`
	t.Run("waits for the npm tool", func(t *testing.T) {
		dsn := newDatabase(t)
		dir := t.TempDir()
		npm := startNPM(t, theirs, dir, "job", "--db", dsn, "--", "sh", "-c", wait)
		holder := &process{dir: dir}
		holder.pid(t, "parent")
		start(t, dsn, "-n", "--key=advisory-lock", "job", "true").ends(t, 1)
		start(t, dsn, "-n", "job", "true").ends(t, 0) // a different lock
		ours := start(t, dsn, "--key=advisory-lock", "job", "touch", "ran")
		holder.touch(t, "end")
		if err := npm.Wait(); err != nil {
			t.Errorf("npm: %v", err)
		}
		ours.ends(t, 0)
	})
	t.Run("the npm tool waits", func(t *testing.T) {
		dsn := newDatabase(t)
		db := openDB(t, dsn)
		ours := start(t, dsn, "--key=advisory-lock", "job", "--", "sh", "-c", wait)
		ours.pid(t, "parent")
		dir := t.TempDir()
		npm := startNPM(t, theirs, dir, "job", "--db", dsn, "--", "touch", "ran")
		until(t, "the npm tool waits", func() bool { return countLocks(db) == 2 })
		if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
			t.Error("the npm tool's command has run")
		}
		if tryLock(t, db, interop.AdvisoryLock("job")) {
			t.Error("the lock is free")
		}
		ours.touch(t, "end")
		ours.ends(t, 0)
		if err := npm.Wait(); err != nil {
			t.Errorf("npm: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "ran")); err != nil {
			t.Errorf("the npm tool's command has not run: %v", err)
		}
	})
	// The command lines that work there work here.
	t.Run("command lines", func(t *testing.T) {
		dsn := newDatabase(t)
		for _, args := range [][]string{
			{"job", "--db", dsn, "--", "sh", "-c", `test "$1" = " -a b"`, "sh", " -a b"},
			{"job", "--db=" + dsn, "--", "true"},
			{"--db", dsn, "job", "--", "true"},
		} {
			npm := startNPM(t, theirs, t.TempDir(), args...)
			if err := npm.Wait(); err != nil {
				t.Errorf("npm %q: %v", args, err)
			}
			start(t, "postgres://127.0.0.1:1/none", args...).ends(t, 0)
		}
	})
}

func startNPM(t *testing.T, program, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { t.Logf("npm: %s", &output) })
	return cmd
}
