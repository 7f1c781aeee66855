package pgtest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// Two clients that are idle between transactions share a server session if,
// and only if, PgBouncer takes it from them at the end of each.
func TestBouncerModes(t *testing.T) {
	for mode, shared := range map[string]bool{"session": false, "transaction": true, "statement": true} {
		t.Run(mode, func(t *testing.T) {
			dsn := pgtest.Bouncer(t, pgtest.New(t).Database(t), mode)
			one := backend(t, connect(t, dsn))
			two := backend(t, connect(t, dsn))
			if (one == two) != shared {
				t.Errorf("two clients are on backends %d and %d, want shared = %t", one, two, shared)
			}
		})
	}
}

func TestStatementModeRefusesTransactions(t *testing.T) {
	conn := connect(t, pgtest.Bouncer(t, pgtest.New(t).DSN(), "statement"))
	if _, err := conn.Exec(t.Context(), "begin"); err == nil {
		t.Error("begin passed through statement mode")
	}
}

func TestBouncerKeepsTheDatabase(t *testing.T) {
	direct := pgtest.New(t).Database(t)
	want := query[string](t, connect(t, direct), "select current_database()")
	conn := connect(t, pgtest.Bouncer(t, direct, "transaction"))
	if got := query[string](t, conn, "select current_database()"); got != want {
		t.Errorf("database is %s, want %s", got, want)
	}
}

// Options that PgBouncer would refuse a client for must not get in the way.
func TestBouncerAcceptsEveryDSN(t *testing.T) {
	s := pgtest.New(t)
	url := s.Database(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	keywords := strings.Join([]string{
		"host=" + config.Host, "user=" + config.User, "dbname=" + config.Database,
		"sslmode=disable", "lock_timeout=5000", portOf(config),
	}, " ")
	for name, dsn := range map[string]string{
		"URL":      url + "&search_path=a%2Cb&application_name=some%20name&options=-c%20work_mem%3D1MB",
		"keywords": keywords,
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, pgtest.Bouncer(t, dsn, "transaction"))
			if got := query[string](t, conn, "select current_database()"); got != config.Database {
				t.Errorf("database is %s, want %s", got, config.Database)
			}
		})
	}
}

func backend(t *testing.T, conn *pgx.Conn) int {
	t.Helper()
	return query[int](t, conn, "select pg_backend_pid()")
}

func portOf(config *pgx.ConnConfig) string { return fmt.Sprintf("port=%d", config.Port) }

// A PgBouncer that was killed serves on the same port when it is back.
func TestBouncerRestart(t *testing.T) {
	pgtest.Need(t)
	p, err := pgtest.StartBouncer(t.Context(), pgtest.New(t).DSN(), "transaction", "max_client_conn = 3")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	for range 2 { // one that runs, and one that does not
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query[int](t, connect(t, p.DSN()), "select 1"); got != 1 {
			t.Errorf("select 1 is %d", got)
		}
		if err := p.Signal(os.Kill); err != nil {
			t.Error(err)
		}
	}
}
