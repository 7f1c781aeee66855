package pgtest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	os.Exit(pgtest.Main(m))
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
	eventually(t, "the primary's table shows on the standby", func() bool {
		return query[bool](t, conn, "select to_regclass('note') is not null")
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
