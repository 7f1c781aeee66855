package main

import (
	"database/sql"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// asProgram makes the test binary the program.
const asProgram = "MIGRATE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(pgtest.Main(m))
}

// Of ten processes that start at once, one migrates, and none starts its work
// before that is done.
func TestInstancesAtOnce(t *testing.T) {
	dsn := pgtest.New(t).Database(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const n = 10
	outputs := make([]string, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			cmd := exec.Command(self, "-db", dsn)
			cmd.Env = append(os.Environ(), asProgram+"=1")
			output, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, output)
			}
			outputs[i] = string(output)
		})
	}
	group.Wait()
	all := strings.Join(outputs, "")
	t.Log("\n" + all)
	if did := strings.Count(all, "schema 3, was 0"); did != 1 {
		t.Errorf("%d instances migrated", did)
	}
	if found := strings.Count(all, "schema 3, was 3"); found != n-1 {
		t.Errorf("%d instances found it done", found)
	}
	check(t, dsn, `select count(*) from instances`, n)
	check(t, dsn, `select count(*) from pg_index where indexrelid = 'orders_customer'::regclass and indisvalid`, 1)
	check(t, dsn, `select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`, 0)
}

func check(t *testing.T, dsn, query string, want int) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var got int
	if err := db.QueryRow(query).Scan(&got); err != nil || got != want {
		t.Errorf("%s: got %d (%v), want %d", query, got, err, want)
	}
}

func TestUsage(t *testing.T) {
	var stdout, stderr strings.Builder
	if code := run(t.Context(), []string{"-nonsense"}, &stdout, &stderr); code != 2 {
		t.Errorf("exit code %d", code)
	}
	if code := run(t.Context(), []string{"-db", "postgres://%zz"}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
