package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	testneed.Signals()
	os.Exit(pgtest.Main(m, stillRuns))
}

// stillRuns is a check of this program's own Main.
func stillRuns(s *pgtest.Server) error {
	if s == nil {
		return nil // no test that ran has asked for one
	}
	conn, err := pgx.Connect(context.Background(), s.DSN())
	if err != nil {
		return fmt.Errorf("the server is gone before the checks: %w", err)
	}
	return conn.Close(context.Background())
}

func TestMainFailsWithACheck(t *testing.T) {
	broken := errors.New("left behind")
	for _, test := range []struct {
		name  string
		tests int // exit code
		check error
		want  int
	}{
		{"all is well", 0, nil, 0},
		{"a check fails", 0, broken, 1},
		{"the tests fail", 2, nil, 2},
		{"both fail", 2, broken, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			var calls []string
			code := pgtest.RunChecks(
				func() int { calls = append(calls, "tests"); return test.tests },
				func(*pgtest.Server) error { calls = append(calls, "first"); return test.check },
				func(s *pgtest.Server) error {
					calls = append(calls, "second")
					if s != nil {
						t.Error("a server that no test has asked for")
					}
					return nil
				},
			)
			if code != test.want {
				t.Errorf("exit code %d, want %d", code, test.want)
			}
			if want := []string{"tests", "first", "second"}; !slices.Equal(calls, want) {
				t.Errorf("called %v, want %v", calls, want)
			}
		})
	}
}

func TestDatabasesAreSeparate(t *testing.T) {
	s := pgtest.New(t)
	one, two := connect(t, s.Database(t)), connect(t, s.Database(t))
	mustExec(t, one, "create table note (text text)")
	mustExec(t, two, "create table note (text text)")
	mustExec(t, one, "insert into note values ('one')")
	if got := query[int](t, two, "select count(*) from note"); got != 0 {
		t.Errorf("a row written in one database shows in another: %d rows", got)
	}
}

func TestDatabaseIsDroppedUnderAnOpenSession(t *testing.T) {
	s := pgtest.New(t)
	var name string
	t.Run("user", func(t *testing.T) {
		conn, err := pgx.Connect(t.Context(), s.Database(t))
		if err != nil {
			t.Fatal(err)
		}
		// Closed after the subtest, so the database is dropped first.
		name = query[string](t, conn, "select current_database()")
	})
	admin := connect(t, s.DSN())
	if query[bool](t, admin, "select exists (select from pg_database where datname = $1)", name) {
		t.Errorf("%s outlived its test", name)
	}
}

// A scratch database is used again, and shows nothing of its last user.
func TestScratchDatabaseIsCleared(t *testing.T) {
	s := pgtest.New(t)
	var used string
	t.Run("first", func(t *testing.T) {
		used = s.Scratch(t)
		conn := connect(t, used)
		mustExec(t, conn, "create table note (text text)")
		mustExec(t, conn, "create schema other create table note (text text)")
		name := query[string](t, conn, "select current_database()")
		mustExec(t, conn, "alter database "+name+" set work_mem = '7MB'")
		mustExec(t, conn, "alter role current_user in database "+name+" set search_path = other")
	})
	if again := s.Scratch(t); again != used {
		t.Fatalf("got %s, want %s again", again, used)
	}
	conn := connect(t, used)
	if n := query[int](t, conn, "select count(*) from pg_tables where tablename = 'note'"); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	if n := query[int](t, conn, "select count(*) from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = current_database())"); n != 0 {
		t.Errorf("%d settings are left", n)
	}
	mustExec(t, conn, "create table note (text text)")
}

func TestNewSharesOneServer(t *testing.T) {
	if a, b := pgtest.New(t), pgtest.New(t); a != b {
		t.Errorf("two servers: %s and %s", a.DSN(), b.DSN())
	}
}

func TestDedicatedServer(t *testing.T) {
	s := pgtest.Dedicated(t, "max_connections = 7", "work_mem = '7MB'")
	conn := connect(t, s.DSN())
	if got := query[string](t, conn, "show max_connections"); got != "7" {
		t.Errorf("max_connections = %s, want 7", got)
	}
	if got := query[string](t, conn, "show work_mem"); got != "7MB" {
		t.Errorf("work_mem = %s, want 7MB", got)
	}
}

func TestRestartKeepsDataAndAddress(t *testing.T) {
	for name, stop := range map[string]func(*pgtest.Server, testing.TB){
		"running":      func(*pgtest.Server, testing.TB) {},
		"after a stop": (*pgtest.Server).Stop,
		"after a crash": func(s *pgtest.Server, tb testing.TB) {
			s.Crash(tb)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := pgtest.Dedicated(t)
			dsn := s.Database(t)
			before := connect(t, dsn)
			mustExec(t, before, "create table note (text text)")
			stop(s, t)
			s.Restart(t)
			if _, err := before.Exec(t.Context(), "select"); err == nil {
				t.Error("a session survived the restart")
			}
			mustExec(t, connect(t, dsn), "insert into note values ('after')")
		})
	}
}

func TestStandbyFollowsItsPrimary(t *testing.T) {
	primary := pgtest.Dedicated(t)
	standby := primary.Standby(t)
	conn := connect(t, standby.DSN())
	if !query[bool](t, conn, "select pg_is_in_recovery()") {
		t.Error("the standby is none")
	}
	mustExec(t, connect(t, primary.DSN()), "create table note (text text)")
	testneed.Until(t, "the primary's table shows on the standby", func() bool {
		return query[bool](t, conn, "select to_regclass('note') is not null")
	})
}

// After a promotion the old primary becomes the standby of the new one, with its
// data, at its own address.
func TestOldPrimaryFollowsTheNewOne(t *testing.T) {
	old := pgtest.Dedicated(t)
	promoted, address := old.Standby(t), old.DSN()
	mustExec(t, connect(t, old.DSN()), "create table note (text text)")
	conn := connect(t, promoted.DSN())
	testneed.Until(t, "the primary's table shows on the standby", func() bool {
		return query[bool](t, conn, "select to_regclass('note') is not null")
	})
	old.Crash(t)
	if err := promoted.Control(t.Context(), "promote"); err != nil {
		t.Fatal(err)
	}
	mustExec(t, connect(t, promoted.DSN()), "insert into note values ('after')")
	if err := old.Follow(t.Context(), promoted); err != nil {
		t.Fatal(err)
	}
	if old.DSN() != address {
		t.Errorf("the old primary's DSN is %s, and was %s", old.DSN(), address)
	}
	mustExec(t, connect(t, promoted.DSN()), "insert into note values ('followed')")
	conn = connect(t, old.DSN())
	if !query[bool](t, conn, "select pg_is_in_recovery()") {
		t.Error("the old primary is no standby")
	}
	testneed.Until(t, "what the new primary got shows on the old one", func() bool {
		return query[int](t, conn, "select count(*) from note") == 2
	})
}

func TestStoppedServerRefusesConnections(t *testing.T) {
	s := pgtest.Dedicated(t)
	dsn := s.Database(t) // whose Cleanup must not mind
	s.Stop(t)
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		conn.Close(t.Context())
		t.Error("a stopped server accepted a connection")
	}
}

func TestStartReportsTheServersLog(t *testing.T) {
	s, err := pgtest.Start(t.Context(), "no_such_setting = 1")
	if err == nil {
		s.Close()
		t.Fatal("a server started with a setting that does not exist")
	}
	if !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("the error does not hold the server's words: %v", err)
	}
}

func TestDatabaseURL(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://app@db.example/app?search_path=a%20b")
	s, err := pgtest.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := os.Getenv("DATABASE_URL"); s.DSN() != want {
		t.Errorf("DSN is %s, want %s", s.DSN(), want)
	}
	if got := outcome(func(tb testing.TB) { s.Restart(tb) }); got != failed {
		t.Errorf("Restart of somebody else's server: the test %s, want %s", got, failed)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
