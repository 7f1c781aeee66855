//go:build unix

package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

var update = flag.Bool("update", false, "write testdata/doctor/*.golden anew")

// doctorOutputs is a directory that the outputs go to as they are, for the docs.
const doctorOutputs = "DOCTOR_OUTPUTS"

// What differs from run to run, or from one server to the next, in an output.
var passing = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`PostgreSQL \d+\.\d+`), "PostgreSQL VERSION"},
	{regexp.MustCompile(` at \S+:\d+`), " at ADDRESS"},
	{regexp.MustCompile(`database \S+, role \S+`), "database DATABASE, role ROLE"},
	{regexp.MustCompile(`\S+ a round trip: \S+ for a section \(WithTx\), \S+ for`), "T a round trip: T for a section (WithTx), T for"},
	{regexp.MustCompile(`\d+ in use`), "N in use"},
	{regexp.MustCompile(`is noticed after [^,\s]+`), "is noticed after T"},
}

// doctorSays checks what the doctor says of a server, and how it ends.
func doctorSays(t *testing.T, golden string, code int, dsn string, args ...string) {
	t.Helper()
	output, got := runDoctor(t, dsn, args...)
	if got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if dir := os.Getenv(doctorOutputs); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, golden+".txt"), []byte(output), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	output = lasting(output)
	file := filepath.Join("testdata", "doctor", golden+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(output), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := string(read)
	if os.Getenv("DATABASE_URL") != "" { // a server of another size
		size := regexp.MustCompile(`room for \d+`)
		want, output = size.ReplaceAllString(want, "room for N"), size.ReplaceAllString(output, "room for N")
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(output, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// lasting returns an output without what differs from run to run.
func lasting(output string) string {
	for _, p := range passing {
		output = p.pattern.ReplaceAllString(output, p.instead)
	}
	return output
}

// runDoctor returns what withlock --doctor prints, and its exit code.
func runDoctor(t *testing.T, dsn string, args ...string) (output string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"withlock", "--doctor"}, args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(stdout) + stderr.String(), cmd.ProcessState.ExitCode()
}

// The pooler's mode is found out, and a lock of a session is not left in it.
func TestDoctorPoolers(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	doctorSays(t, "pgbouncer-session", 1, pgtest.Bouncer(t, dsn, "session"))
	doctorSays(t, "pgbouncer-session-allowed", 0, pgtest.Bouncer(t, dsn, "session"), "--pooler")
	doctorSays(t, "pgbouncer-statement", 1, pgtest.Bouncer(t, dsn, "statement"))

	// Without what makes pgx do without prepared statements: the doctor leaves
	// none behind in any case.
	through := strings.Replace(pgtest.Bouncer(t, dsn, "transaction"), "mode=exec", "mode=cache_statement", 1)
	doctorSays(t, "pgbouncer-transaction"+bouncerKind(t), 1, through)
	conn, err := pgx.Connect(t.Context(), strings.Replace(through, "mode=cache_statement", "mode=simple_protocol", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for range 4 {
		var left string
		err := conn.QueryRow(t.Context(), `select coalesce(string_agg(statement, '; '), '') from pg_prepared_statements
			where name not like 'PGBOUNCER%'`).Scan(&left)
		if err != nil {
			t.Fatal(err)
		}
		if left != "" {
			t.Errorf("left on a session of the pooler: %s", left)
		}
	}
}

// bouncerKind tells PgBouncer that knows prepared statements from one that does
// not, in a golden file's name.
func bouncerKind(t *testing.T) string {
	t.Helper()
	program := os.Getenv("PGTEST_BOUNCER")
	if program == "" {
		program = "/usr/sbin/pgbouncer"
	}
	out, err := exec.CommandContext(t.Context(), program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`^PgBouncer 1\.(1?\d|2[0-3])\.`).Match(out) { // before 1.24 they are off by default
		return ""
	}
	return "-prepared"
}

// A standby is told from its primary. The primary has nothing to complain of in
// its log.
func TestDoctorStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Dedicated(t)
	standby := primary.Standby(t)
	before := complaints(t, primary)
	doctorSays(t, "postgresql", 0, primary.DSN())
	doctorSays(t, "standby", 1, standby.DSN())
	if after := complaints(t, primary); !slices.Equal(before, after) {
		t.Errorf("the primary's log: %q", after)
	}
}

// complaints returns the lines of a server's log that something is wrong.
func complaints(t *testing.T, s *pgtest.Server) []string {
	t.Helper()
	log, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^.*(WARNING|ERROR|STATEMENT):.*$`).FindAllString(log, -1)
}

// A role whose limits are short, which sees little, and may not have many
// connections.
func TestDoctorLimits(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	role := "doctor_" + strings.ToLower(t.Name())
	db := openDB(t, dsn)
	drop := func() { _, _ = db.Exec(`drop role if exists ` + role) }
	drop()
	t.Cleanup(drop)
	for _, query := range []string{
		`create role ` + role + ` login connection limit 7`,
		`alter role ` + role + ` set statement_timeout = '20s'`,
		`alter role ` + role + ` set lock_timeout = '5s'`,
		`alter role ` + role + ` set idle_in_transaction_session_timeout = '10s'`,
		`alter role ` + role + ` set idle_session_timeout = '1min'`,
		`alter role ` + role + ` set default_transaction_read_only = on`,
		`alter role ` + role + ` set synchronous_commit = off`,
		`alter role ` + role + ` set standard_conforming_strings = off`,
	} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	doctorSays(t, "limits", 0, strings.Replace(dsn, config.User+"@", role+"@", 1))
}

// A right that the packages need and the role lacks is a promise that does not hold. A
// setting that changes what the server understands changes nothing that is found.
func TestDoctorRoles(t *testing.T) {
	t.Parallel()
	const good, xactBroken = "xactlock     all guarantees hold\n", "xactlock     not all guarantees hold: see "
	for name, test := range map[string]struct {
		setup []string
		code  int
		lines []string
	}{
		"wait": {[]string{`revoke execute on function pg_advisory_xact_lock(bigint) from public`}, 1, []string{
			"no    fresh reads ", "shows the locks of all", xactBroken + "fresh reads\n"}},
		"session": {[]string{`revoke execute on function pg_try_advisory_lock(bigint) from public`}, 1, []string{
			"no    session lock         permission denied for function pg_try_advisory_lock\n", xactBroken + "fresh reads\n"}},
		"token": {[]string{`revoke execute on function pg_current_xact_id() from public`}, 1, []string{
			"no    fresh reads ", xactBroken + "fresh reads\n"}},
		"pg_locks": {[]string{`revoke select on pg_locks from public`}, 1, []string{
			"no    pg_locks             cannot be read: ", "ok    fresh reads ", xactBroken + "pg_locks\n"}},
		"plpgsql": {[]string{`revoke usage on language plpgsql from public`}, 1, []string{
			"no    PL/pgSQL             is missing: ", xactBroken + "PL/pgSQL"}},
		"pg_settings": {[]string{`revoke select on pg_settings from public`, `alter role ROLE set lock_timeout = '5s'`}, 0, []string{
			"ok    server ", "-     timeout ", good}},
		"backslashes": {[]string{`alter role ROLE set standard_conforming_strings = off`}, 0, []string{"ok    fresh reads ", good}},
		"deferrable": {[]string{`alter role ROLE set default_transaction_isolation = serializable`, `alter role ROLE set default_transaction_read_only = on`,
			`alter role ROLE set default_transaction_deferrable = on`}, 0, []string{"note  deferrable ", good}},
		"log": {[]string{`alter role ROLE set log_min_duration_statement = '250ms'`, `alter role ROLE set log_lock_waits = on`,
			`alter role ROLE set deadlock_timeout = '200ms'`}, 0, []string{
			"note  log                  log_min_duration_statement is 250ms\n", "log_lock_waits is on, and deadlock_timeout 200ms\n", good}},
		"search_path": {[]string{`create schema trap`, `grant usage on schema trap to public`, `create view trap.pg_locks as select 1`,
			`create function trap.never(text, text) returns boolean language sql as 'select false'`,
			`create operator trap.= (leftarg = text, rightarg = text, function = trap.never)`,
			`alter role ROLE set search_path = trap, pg_catalog`}, 0, []string{
			"ok    server ", "note  vanished client      is noticed", "ok    lock table ", "shows the locks of all", good}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t)
			dsn, role := server.Database(t), "doctor_"+name // rights are of a database, roles of the server
			for _, query := range append([]string{`drop role if exists ROLE`, `create role ROLE login`}, test.setup...) {
				if _, err := openDB(t, dsn).Exec(strings.ReplaceAll(query, "ROLE", role)); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() { _, _ = openDB(t, server.DSN()).Exec(`drop role ` + role) })
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			output, code := runDoctor(t, strings.Replace(dsn, config.User+"@", role+"@", 1))
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, line := range test.lines {
				if !regexp.MustCompile(line).MatchString(output) {
					t.Errorf("there is no %q", line)
				}
			}
			if t.Failed() {
				t.Log(output)
			}
		})
	}
}

// CockroachDB cannot be started here. Its stand-in says that it is one, and has
// the locks that it is known to have.
func TestDoctorCockroachDB(t *testing.T) {
	t.Parallel()
	doctorSays(t, "cockroachdb-25", 1, startStandIn(t, "CockroachDB CCL v25.2.0", false))
	doctorSays(t, "cockroachdb-26.3", 1, startStandIn(t, "CockroachDB CCL v26.3.0", true))
}

// The doctor says what a server does, and not what it says that it does.
func TestDoctorIsNotTold(t *testing.T) {
	t.Parallel()
	output, code := runDoctor(t, startStandIn(t, "PostgreSQL 15.0", false))
	for _, line := range []string{"no    transaction lock     " + bothHave, "no    session lock         " + bothHave} {
		if code != 1 || !strings.Contains(output, line) {
			t.Errorf("exit code %d, and no %q:\n%s", code, line, output)
		}
	}
}

func TestDoctorNoServer(t *testing.T) {
	t.Parallel()
	output, code := runDoctor(t, "postgres://app:sec!ret@127.0.0.1:1/db")
	if code != exitNoDatabase || !strings.Contains(output, "no database") || strings.Contains(output, "sec!ret") {
		t.Errorf("exit code %d: %s", code, output)
	}
}

// docs/servers.md shows what the doctor says of each server.
func TestDoctorDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/servers.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	for _, block := range regexp.MustCompile("(?s)```console\n\\$ withlock --doctor[^\n]*\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		shown[lasting(block[1])] = true
	}
	files, err := filepath.Glob("testdata/doctor/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !shown[string(golden)] {
			t.Errorf("docs/servers.md does not show %s", file)
		}
	}
}

func TestDoctorUsage(t *testing.T) {
	for _, line := range []string{"--doctor job", "--doctor -n", "--doctor -- ls", "--doctor --list"} {
		if o, err := parse(strings.Fields(line)); err == nil {
			t.Errorf("%s: %+v, want an error", line, o)
		}
	}
	for _, line := range []string{"--doctor", "--doctor --pooler", "--db URL --doctor"} {
		if _, err := parse(strings.Fields(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}
