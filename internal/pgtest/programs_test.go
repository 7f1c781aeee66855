package pgtest_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

func TestNoServerProgramsSaysHowToGetThem(t *testing.T) {
	pgtest.HidePrograms(t)
	t.Setenv("PATH", t.TempDir())
	t.Setenv("PGTEST_BIN", "")
	_, err := pgtest.Start(t.Context())
	if err == nil {
		t.Fatal("a server started without any programs")
	}
	for _, way := range []string{"make setup", "apt-get install", "brew install", "PGTEST_BIN", "DATABASE_URL"} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("the error does not name %q: %v", way, err)
		}
	}
}

func TestWrongDirectoryIsNotPassedOver(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PGTEST_BIN", dir)
	if _, err := pgtest.Start(t.Context()); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error is %v, want one that names %s", err, dir)
	}
}

// A version that was asked for and is not there fails the test.
func TestWrongBouncerIsNotPassedOver(t *testing.T) {
	program := filepath.Join(t.TempDir(), "pgbouncer")
	t.Setenv("PGTEST_BOUNCER", program)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := pgtest.StartBouncer(ctx, pgtest.New(t).DSN(), "session"); err == nil || !strings.Contains(err.Error(), program) {
		t.Errorf("error is %v, want one that names %s", err, program)
	}
}

// The program that is named is the one that runs.
func TestBouncerProgram(t *testing.T) {
	pgtest.Need(t)
	program := filepath.Join(t.TempDir(), "pgbouncer")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho it was me >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(program); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // for the account that servers run under
			t.Fatal(err)
		}
	}
	t.Setenv("PGTEST_BOUNCER", program)
	_, err := pgtest.StartBouncer(t.Context(), pgtest.New(t).DSN(), "session")
	if err == nil || !strings.Contains(err.Error(), "it was me") {
		t.Errorf("error is %v, want what the program says", err)
	}
}

func TestNoBouncerSkipsButFailsInCI(t *testing.T) {
	pgtest.HidePrograms(t)
	t.Setenv("PGTEST_BOUNCER", "")
	t.Setenv("PATH", t.TempDir())
	for ci, want := range map[string]string{"": skipped, "true": failed} {
		t.Setenv("CI", ci)
		if got := outcome(func(tb testing.TB) { pgtest.Bouncer(tb, "", "session") }); got != want {
			t.Errorf("with CI=%q the test %s, want: %s", ci, got, want)
		}
	}
}

func TestNewestFirst(t *testing.T) {
	root := t.TempDir()
	want := []string{"18", "9.6", "9.5", "latest"}
	for _, name := range want {
		if err := os.MkdirAll(filepath.Join(root, "v", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(root)
	var got []string
	for _, dir := range pgtest.NewestFirst([]string{"v/*"}) {
		got = append(got, filepath.Base(dir))
	}
	if !slices.Equal(got, want) {
		t.Errorf("order is %v, want %v", got, want)
	}
}
