package main

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey/interop"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
	"github.com/pgadvisory/pgadvisory/locktest"
)

// asProgram makes the test binary the program.
const asProgram = "MIGRATE_TEST_AS_PROGRAM"

var until = testneed.Until

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

// While a program runs golang-migrate without this package, an instance waits for it,
// until its ctx ends.
func TestBesideGolangMigrate(t *testing.T) {
	db, url := locktest.DB(t), locktest.URL(t)
	var database string
	if err := db.QueryRow(`select current_database()`).Scan(&database); err != nil {
		t.Fatal(err)
	}
	theirs := interop.GolangMigrate(database, "public", "schema_migrations")
	release := locktest.Hold(t, url, theirs)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	migrated := start(ctx, db)
	until(t, "it waits", func() bool {
		select {
		case r := <-migrated:
			t.Fatalf("it has not waited: %+v", r)
		default:
		}
		locks, err := inspect.Of(t.Context(), db, theirs)
		if err != nil {
			t.Fatal(err)
		}
		return len(locks) == 2
	})
	cancel()
	if r := receive(t, migrated); !errors.Is(r.err, context.Canceled) {
		t.Errorf("its ctx has ended: error %v, want that of ctx", r.err)
	}
	release()
	if r := receive(t, start(t.Context(), db)); r.err != nil || r.to != 3 {
		t.Errorf("once the lock is free: %+v", r)
	}
}

// An instance whose ctx ends while it migrates says so, unless it is done.
func TestStoppedHalfWay(t *testing.T) {
	db := locktest.DB(t)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`create table orders (id int)`); err != nil { // the first migration waits for it
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	migrated := start(ctx, db)
	until(t, "the first migration waits", func() bool {
		var waiting int
		if err := db.QueryRow(`select count(*) from pg_locks where not granted and locktype = 'transactionid'
			and pid in (select pid from pg_stat_activity where datname = current_database())`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		return waiting == 1
	})
	cancel()
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	r := receive(t, migrated)
	if (r.err != nil) != (r.to != 3) || r.err != nil && !errors.Is(r.err, context.Canceled) {
		t.Errorf("its ctx has ended: %+v", r)
	}
}

// result is what migrateUp has returned.
type result struct {
	from, to uint
	err      error
}

// start begins to migrate.
func start(ctx context.Context, db *sql.DB) <-chan result {
	migrated := make(chan result, 1)
	go func() {
		var r result
		r.from, r.to, r.err = migrateUp(ctx, db)
		migrated <- r
	}()
	return migrated
}

const patience = 30 * time.Second

func receive(t *testing.T, migrated <-chan result) result {
	t.Helper()
	select {
	case r := <-migrated:
		return r
	case <-time.After(patience):
		t.Fatal("it has not returned")
		panic("unreachable")
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
