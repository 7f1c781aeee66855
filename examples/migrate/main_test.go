package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/locktest"
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

// golang-migrate takes a lock of its own, under ours. While golang-migrate runs
// somewhere without ours, the instance that is about to migrate waits for it.
func TestBesideTheCommand(t *testing.T) {
	db, url := locktest.DB(t), locktest.URL(t)
	var database string
	if err := db.QueryRow(`select current_database()`).Scan(&database); err != nil {
		t.Fatal(err)
	}
	theirs := interop.GolangMigrate(database, "public", "schema_migrations")
	release := locktest.Hold(t, url, theirs)
	migrated := make(chan error, 1)
	go func() {
		_, to, err := migrateUp(t.Context(), db)
		if err == nil && to != 3 {
			err = fmt.Errorf("the schema is at version %d", to)
		}
		migrated <- err
	}()
	for waiting := false; !waiting; {
		select {
		case err := <-migrated:
			t.Fatalf("it has not waited (error %v)", err)
		case <-time.After(time.Millisecond):
		}
		locks, err := inspect.Of(t.Context(), db, theirs)
		if err != nil {
			t.Fatal(err)
		}
		waiting = len(locks) == 2
	}
	if locks, err := inspect.Of(t.Context(), db, hashkey.Name("examples/migrate")); err != nil || len(locks) != 1 || !locks[0].Granted {
		t.Errorf("meanwhile our own lock is not held: %v (error %v)", locks, err)
	}
	release()
	if err := <-migrated; err != nil {
		t.Error(err)
	}
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
