package pgtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// A cluster is made by initdb once, and then from what the user's cache keeps of it,
// unless that is not there or broken.
func TestClustersFromTheCache(t *testing.T) {
	log := countInitdb(t)
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", "")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cached := func() []string {
		files, err := filepath.Glob(filepath.Join(cache, "pgadvisory", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	truncate := func(tenths int64) {
		for _, file := range cached() {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, info.Size()*tenths/10); err != nil {
				t.Error(err)
			}
		}
	}
	for _, step := range []struct {
		name    string
		before  func()
		initdbs int // until after it
	}{
		{"first", func() {}, 1},
		{"second", func() {}, 1},
		{"broken", func() { truncate(9) }, 2},
		{"empty", func() { truncate(0) }, 3},
		{"upgraded", func() { upgrade(t) }, 4},
		{"no cache", func() { t.Setenv("HOME", "") }, 5},
	} {
		step.before()
		conn := connect(t, pgtest.Dedicated(t).DSN())
		if encoding := query[string](t, conn, "show server_encoding"); encoding != "UTF8" {
			t.Errorf("%s: the server's encoding is %s", step.name, encoding)
		}
		lines, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(lines), "\n"); n != step.initdbs {
			t.Errorf("%s: initdb has run %d times, want %d", step.name, n, step.initdbs)
		}
		if files := cached(); len(files) != 1 {
			t.Errorf("%s: the cache holds %v, want one file", step.name, files)
		}
	}
}

// upgrade changes the program that tells installations apart, which runs from where
// the links of countInitdb lead.
func upgrade(t *testing.T) {
	t.Helper()
	program := filepath.Join(os.Getenv("PGTEST_BIN"), "postgres")
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
}

// initdbOnce is an initdb that makes one cluster, and copies of it after that.
const initdbOnce = `#!/bin/sh
log='%s' made='%s' initdb='%s'
echo >>"$log"
data=$2
shift 2
[ -d "$made" ] || "$initdb" -D "$made" "$@" || exit
cp -a "$made" "$data"
`

// countInitdb has the rest of the test use programs of which initdb writes a line into
// a file for each of its runs, and returns the file's name.
func countInitdb(t *testing.T) (log string) {
	t.Helper()
	pgtest.Need(t)
	bin, err := pgtest.FindServer()
	if err != nil {
		t.Fatal(err)
	}
	dir := publicDir(t)
	log = filepath.Join(dir, "log")
	initdb := fmt.Sprintf(initdbOnce, log, filepath.Join(dir, "made"), filepath.Join(bin, "initdb"))
	for name, text := range map[string]string{"log": "", "initdb": initdb} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"pg_ctl", "postgres"} {
		if err := os.Symlink(filepath.Join(bin, program), filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PGTEST_BIN", dir)
	return log
}
