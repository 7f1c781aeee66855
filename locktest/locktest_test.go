package locktest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/locktest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// databaseOf returns the name of the database that a pool is on.
func databaseOf(t *testing.T, db *sql.DB) string {
	t.Helper()
	var name string
	if err := db.QueryRow(`select current_database()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	return name
}

func mustExec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

// All pools of a test are on its database, and no other test's is.
func TestOneDatabasePerTest(t *testing.T) {
	t.Parallel()
	one, two := locktest.DB(t), locktest.DB(t)
	mustExec(t, one, `create table note (text text)`)
	mustExec(t, two, `insert into note values ('seen by both')`)
	if url, name := locktest.URL(t), databaseOf(t, one); !strings.Contains(url, name) {
		t.Errorf("the URL is %s, but the pool is on %s", url, name)
	}
	var (
		mu    sync.Mutex
		names = []string{databaseOf(t, one)}
	)
	t.Run("subtests", func(t *testing.T) {
		for i := range 2 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				db := locktest.DB(t)
				mustExec(t, db, `create table note (text text)`)
				mu.Lock()
				defer mu.Unlock()
				names = append(names, databaseOf(t, db))
			})
		}
	})
	if names[0] == names[1] || names[1] == names[2] || names[0] == names[2] {
		t.Errorf("three tests are on %v", names)
	}
	var left int
	if err := one.QueryRow(`select count(*) from pg_database where datname in ($1, $2)`, names[1], names[2]).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d databases of tests that are over are left (error %v)", left, err)
	}
}

// Goroutines of one test that ask for its database at the same time are on one.
func TestOneDatabaseForGoroutines(t *testing.T) {
	t.Parallel()
	urls := make([]string, 8)
	var all sync.WaitGroup
	for i := range urls {
		all.Go(func() { urls[i] = locktest.URL(t) })
	}
	all.Wait()
	for _, url := range urls {
		if url != urls[0] {
			t.Errorf("one test has the databases %s and %s", urls[0], url)
		}
	}
}

// A key that is held is refused to everybody, and free after release.
func TestHold(t *testing.T) {
	t.Parallel()
	db, url := locktest.DB(t), locktest.URL(t)
	sessions, transactions := sessionlock.New(db), xactlock.New(db)
	for _, key := range []hashkey.Key{hashkey.Name("busy"), hashkey.Pair(7, -1)} {
		release := locktest.Hold(t, url, key)
		if _, err := sessions.TryLock(t.Context(), key); !errors.Is(err, sessionlock.ErrNotAcquired) {
			t.Errorf("%v, asked for by sessionlock: %v", key, err)
		}
		release()
		release()
		if err := transactions.TryWithTx(t.Context(), key, nothing); err != nil {
			t.Errorf("%v is not free after release: %v", key, err)
		}
	}
	key := hashkey.Name("until the end")
	t.Run("test", func(t *testing.T) { locktest.Hold(t, url, key) })
	if err := transactions.TryWithTx(t.Context(), key, nothing); err != nil {
		t.Errorf("%v is not free after the test: %v", key, err)
	}
}

// Hold waits for its turn, as somebody else would.
func TestHoldWaits(t *testing.T) {
	t.Parallel()
	db, url, key := locktest.DB(t), locktest.URL(t), hashkey.Name("ours")
	lock, err := sessionlock.New(db).Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	unlocked := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		for {
			locks, err := inspect.Of(ctx, db, key)
			if err != nil || len(locks) == 2 { // the holder, and the one who waits
				unlocked <- errors.Join(err, lock.Unlock())
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	locktest.Hold(t, url, key)
	if err := <-unlocked; err != nil {
		t.Fatal(err)
	}
}

// Hold and Lose also do their work when the test is over, in its Cleanup.
func TestInCleanup(t *testing.T) {
	t.Parallel()
	url, key := locktest.URL(t), hashkey.Name("at the end")
	t.Run("test", func(t *testing.T) {
		t.Cleanup(func() {
			release := locktest.Hold(t, url, key)
			locktest.Lose(t, url, key)
			release()
		})
	})
}

// Hold says in whose hands the key is that it cannot get.
func TestHoldSaysWho(t *testing.T) {
	db, url, key := locktest.DB(t), locktest.URL(t), hashkey.Name("ours")
	locktest.SetPatience(t, 2*time.Second)
	lock, err := sessionlock.New(db).Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	message := failure(t, func(tb testing.TB) { locktest.Hold(tb, url, key) })
	for _, want := range []string{"ours", "held by pid ", "idle"} {
		if !strings.Contains(message, want) {
			t.Errorf("%q does not say %q", message, want)
		}
	}
}

// A holder whose lock is lost is told, and the key is free when Lose returns, also
// if the session takes long to end: this one has tables to drop.
func TestLose(t *testing.T) {
	t.Parallel()
	db, url, key := locktest.DB(t), locktest.URL(t), hashkey.Name("fragile")
	lock, err := sessionlock.New(db).With(sessionlock.Options{Check: 20 * time.Millisecond}).Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Conn().ExecContext(t.Context(), `do $$ begin for i in 1..50 loop
		execute 'create temporary table t' || i || ' (n int)'; end loop; end $$`); err != nil {
		t.Fatal(err)
	}
	if err := db.PingContext(t.Context()); err != nil { // a connection for what follows at once
		t.Fatal(err)
	}
	locktest.Lose(t, url, key)
	if err := sessionlock.New(db).TryWithLock(t.Context(), key, nothingOn); err != nil {
		t.Errorf("the key is not free: %v", err)
	}
	<-lock.Lost()
	if err := lock.Unlock(); !errors.Is(err, sessionlock.ErrLost) {
		t.Errorf("error is %v, want ErrLost", err)
	}
	if message := failure(t, func(tb testing.TB) { locktest.Lose(tb, url, key) }); !strings.Contains(message, "nobody holds") {
		t.Errorf("with no holder: %q", message)
	}
	release := locktest.Hold(t, url, key)
	locktest.Lose(t, url, key)
	release() // which must not fail the test
}

func nothingOn(context.Context, *sql.Conn) error { return nil }

// With the session of a transaction goes what the transaction has written.
func TestLoseOfATransaction(t *testing.T) {
	t.Parallel()
	db, url, key := locktest.DB(t), locktest.URL(t), hashkey.Name("transaction")
	mustExec(t, db, `create table note (text text)`)
	err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `insert into note values ('lost')`); err != nil {
			return err
		}
		locktest.Lose(t, url, key)
		return nil
	})
	if !errors.Is(err, xactlock.ErrLost) {
		t.Errorf("error is %v, want ErrLost", err)
	}
	var rows int
	if err := db.QueryRow(`select count(*) from note`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows are written (error %v)", rows, err)
	}
}

// failure runs f as a test of its own that is expected to fail, and returns its
// message.
func failure(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	if r.message == "" {
		t.Error("the test has not failed")
	}
	return r.message
}

// recorder keeps the failure of a test from failing the one that it stands in for.
type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
