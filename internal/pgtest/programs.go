package pgtest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// serverDirs are where packages put the server programs without putting them
// on PATH: Debian, Fedora, PGDG's RPMs, a source build, Homebrew, Postgres.app.
var serverDirs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

var bouncerDirs = []string{
	"/usr/sbin",
	"/usr/local/sbin",
	"/usr/local/bin",
	"/opt/homebrew/bin",
	"/opt/homebrew/opt/pgbouncer/bin",
	"/usr/local/opt/pgbouncer/bin",
}

var errNoServer = errors.New(`no PostgreSQL server programs (initdb, pg_ctl) found in PGTEST_BIN, on PATH or in the usual places. Any of these helps:
	make setup                      installs what the tests need
	apt-get install postgresql      Debian, Ubuntu
	brew install postgresql         macOS
	export PGTEST_BIN=DIRECTORY     the bin directory of an installation
	export DATABASE_URL=URL         a running server, whose role may create databases`)

var errNoBouncer = errors.New("no pgbouncer found in PGTEST_BOUNCER, on PATH or in the usual places; `make setup` installs it")

// findServer returns the directory of initdb and pg_ctl.
func findServer() (string, error) {
	if dir := os.Getenv("PGTEST_BIN"); dir != "" {
		if !hasServer(dir) {
			return "", fmt.Errorf("PGTEST_BIN is %s, which has no initdb and pg_ctl that can be run", dir)
		}
		return filepath.Abs(dir)
	}
	if initdb, err := exec.LookPath("initdb"); err == nil && hasServer(filepath.Dir(initdb)) {
		return filepath.Dir(initdb), nil
	}
	for _, dir := range newestFirst(serverDirs) {
		if hasServer(dir) {
			return dir, nil
		}
	}
	return "", errNoServer
}

func hasServer(dir string) bool {
	return executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "pg_ctl"))
}

// findBouncer returns the program of PgBouncer.
func findBouncer() (string, error) {
	if path := os.Getenv("PGTEST_BOUNCER"); path != "" {
		if !executable(path) {
			return "", fmt.Errorf("PGTEST_BOUNCER is %s, which is no program that can be run", path)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	for _, dir := range bouncerDirs {
		if path := filepath.Join(dir, "pgbouncer"); executable(path) {
			return path, nil
		}
	}
	return "", errNoBouncer
}

// Need ends a test that needs the programs of PostgreSQL and PgBouncer, where
// they are not there: it is skipped, and fails if CI is set.
func Need(tb testing.TB) {
	tb.Helper()
	_, noServer := findServer()
	_, noBouncer := findBouncer()
	if err := errors.Join(noServer, noBouncer); err != nil {
		missing(tb, err)
	}
}

// missing ends a test that needs a program which is not there.
func missing(tb testing.TB, err error) {
	tb.Helper()
	testneed.Missing(tb, fmt.Errorf("pgtest: %w", err))
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// newestFirst expands the patterns and sorts the directories by the version in
// their names, as a number: 18 comes before 9.6.
func newestFirst(patterns []string) []string {
	var dirs []string
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern) // fails only on a malformed pattern
		dirs = append(dirs, found...)
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	return dirs
}

var versionPattern = regexp.MustCompile(`\d+(\.\d+)?`)

// version is the first number in a path, 0 where there is none.
func version(path string) float64 {
	v, _ := strconv.ParseFloat(versionPattern.FindString(path), 64) // "" is 0
	return v
}
