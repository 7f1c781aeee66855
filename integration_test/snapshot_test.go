package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Rule 4: the first statement of fn sees everything the previous holder
// committed, at every isolation level. A read-modify-write loses no update
// then, and fails with no serialization error, but for the rare false one that
// is documented for SERIALIZABLE behind a pooler.
func TestFreshReads(t *testing.T) {
	t.Parallel()
	for _, route := range routes {
		t.Run(route.name, func(t *testing.T) {
			t.Parallel()
			for _, isolation := range isolations {
				for _, plain := range []bool{false, true} {
					if plain && route.pooler {
						continue // documented: the session lock needs one session
					}
					t.Run(fmt.Sprintf("%v/plain=%t", isolation, plain), func(t *testing.T) {
						direct := newDatabase(t)
						again := route.pooler && isolation == sql.LevelSerializable
						readModifyWrite(t, route.dsn(t, direct), xactlock.Options{Isolation: isolation, Plain: plain}, again)
					})
				}
			}
		})
	}
}

// routes are ways to the server.
var routes = []struct {
	name   string
	pooler bool
	dsn    func(t *testing.T, direct string) string
}{
	{"direct", false, func(_ *testing.T, direct string) string { return direct }},
	{"pgbouncer", true, func(t *testing.T, direct string) string { return pgtest.Bouncer(t, direct, "transaction") }},
	{"default repeatable read", false, func(t *testing.T, direct string) string {
		alterDatabase(t, direct, "default_transaction_isolation", "repeatable read")
		return direct
	}},
}

// alterDatabase sets a default for the sessions to come of the database at dsn.
func alterDatabase(t *testing.T, dsn, setting, value string) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	db := openDB(t, dsn)
	exec(t, db, fmt.Sprintf("alter database %s set %s = '%s'", pgx.Identifier{config.Database}.Sanitize(), setting, value))
}

// readModifyWrite has a turn again after a serialization error if that is said.
func readModifyWrite(t *testing.T, dsn string, o xactlock.Options, again bool) {
	t.Helper()
	const goroutines = 8
	turns := stress(40)
	pools := []*sql.DB{openDB(t, dsn), openDB(t, dsn)}
	for _, db := range pools {
		db.SetMaxOpenConns(goroutines / 2)
	}
	exec(t, pools[0], `create table counter (n int)`)
	exec(t, pools[0], `insert into counter values (0)`)
	key := hashkey.Name("counter")
	err := parallel(goroutines, func(i int) error {
		locker := xactlock.New(pools[i%len(pools)]).With(o)
		for done := 0; done < turns; {
			switch err := locker.WithTx(context.Background(), key, increment); {
			case err == nil:
				done++
			case !again || !isSerializationFailure(err):
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := number(t, pools[0], `select n from counter`); n != goroutines*turns {
		t.Errorf("%d of %d increments were lost", goroutines*turns-n, goroutines*turns)
	}
	noTrace(t, pools[0], pools[1])
}

// increment reads, thinks and writes, as code between two statements does.
func increment(ctx context.Context, tx *sql.Tx) error {
	var n int
	if err := tx.QueryRowContext(ctx, `select n from counter`).Scan(&n); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `update counter set n = $1`, n+1)
	return err
}

// One holder is made to wait for another at every isolation level, so that
// the answer does not hang on chance.
func TestFreshReadsAfterAWait(t *testing.T) {
	t.Parallel()
	for _, isolation := range isolations {
		for _, poll := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/poll=%t", isolation, poll), func(t *testing.T) {
				db := newDB(t)
				exec(t, db, `create table counter (n int)`)
				exec(t, db, `insert into counter values (0)`)
				o := xactlock.Options{Isolation: isolation}
				if poll {
					o.Poll = 1
				}
				locker := xactlock.New(db).With(o)
				key := hashkey.Name("counter")

				inside, leave := make(chan struct{}), make(chan struct{})
				first := make(chan error, 1)
				go func() {
					first <- locker.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
						close(inside)
						<-leave
						return increment(ctx, tx)
					})
				}()
				<-inside
				second := make(chan error, 1)
				go func() { second <- locker.WithTx(t.Context(), key, increment) }()
				if !poll {
					until(t, "somebody waits for the lock", func() bool { return waitingLocks(t, db) == 1 })
				}
				close(leave)
				for _, done := range []chan error{first, second} {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if n := number(t, db, `select n from counter`); n != 2 {
					t.Errorf("n = %d after two increments", n)
				}
			})
		}
	}
}
