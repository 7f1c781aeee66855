// Package ecosystem holds tests of xactlock on the pools that programs have:
// other drivers, a pgxpool, an instrumented driver, PgBouncer, and in the
// repositories that they have, written with an ORM or a query builder. It is a
// module of its own, so that none of these is a dependency of the library.
package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// The packages ent, sqlcdb and sqlcpgx are generated. The feature sql/execquery gives
// an *ent.Tx the method ExecContext. Without cgo there is no PostgreSQL parser to
// compile: sqlc has one as WebAssembly.
//
//go:generate go tool ent generate --feature sql/execquery ./ent/schema
//go:generate env CGO_ENABLED=0 go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate -f sqlc/sqlc.yaml

var until = testneed.Until

func TestMain(m *testing.M) {
	pgtest.Unencrypted()
	os.Exit(pgtest.Main(m, func(*pgtest.Server) error {
		return goleak.Find(
			// xactlock keeps a database for the transactions that it adopts.
			goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"),
			// gorm's store of prepared statements has one that never ends.
			goleak.IgnoreTopFunction("gorm.io/gorm/internal/lru.NewLRU[...].func1"),
		)
	}))
}

var isolations = []sql.IsolationLevel{sql.LevelDefault, sql.LevelRepeatableRead, sql.LevelSerializable}

var (
	key         = hashkey.Name("ecosystem")
	errExpected = errors.New("an error of the test's own")
)

// contract runs the tests of the contract's essentials on a kind of pool.
func contract(t *testing.T, pooler bool, open func(t *testing.T, dsn string) *sql.DB) {
	for _, isolation := range isolations {
		t.Run(isolation.String(), func(t *testing.T) {
			l := func(db *sql.DB) *xactlock.Locker {
				return xactlock.New(db).With(xactlock.Options{Isolation: isolation})
			}
			dsn := pgtest.New(t).Scratch(t)
			s := &setting{watcher: openPgx(t, dsn), db: open(t, dsn), other: open(t, dsn), isolation: isolation, pooler: pooler}
			s.l, s.otherL = l(s.db), l(s.other)
			exec(t, s.watcher, `create table counter (n int)`)
			exec(t, s.watcher, `insert into counter values (0)`)
			for _, test := range []struct {
				name string
				run  func(t *testing.T, s *setting)
			}{
				{"read-modify-write", readModifyWrite},
				{"error", errorRollsBack},
				{"panic", panicRollsBack},
				{"failed statement", failedStatement},
				{"commit inside", commitInside},
				{"try", tryConflict},
				{"end of ctx", endOfWait},
				{"many keys", manyKeys},
				{"own transaction", ownTransaction},
			} {
				t.Run(test.name, func(t *testing.T) {
					exec(t, s.watcher, `update counter set n = 0`)
					test.run(t, s)
					s.nothingLeft(t)
				})
			}
		})
	}
}

// setting is two pools of a kind on one database, and one to watch them with.
type setting struct {
	watcher, db, other *sql.DB
	l, otherL          *xactlock.Locker
	isolation          sql.IsolationLevel
	pooler             bool // between the pools and the server
}

const advisory = ` from pg_locks where locktype = 'advisory'
	and database = (select oid from pg_database where datname = current_database()) and `

func (s *setting) held(t *testing.T) int {
	t.Helper()
	return number(t, s.watcher, `select count(*)`+advisory+`granted`)
}

func (s *setting) waiting(t *testing.T) int {
	t.Helper()
	return number(t, s.watcher, `select count(*)`+advisory+`not granted`)
}

// nothingLeft checks that there is no lock, no transaction and no connection
// in use.
func (s *setting) nothingLeft(t *testing.T) {
	t.Helper()
	until(t, "there is no advisory lock", func() bool { return s.held(t)+s.waiting(t) == 0 })
	until(t, "no transaction is open", func() bool {
		return number(t, s.watcher, `select count(*) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null`) == 0
	})
	until(t, "no connection is in use", func() bool { return s.db.Stats().InUse+s.other.Stats().InUse == 0 })
}

func exec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.Exec(query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func number(t *testing.T, db *sql.DB, query string) int {
	t.Helper()
	var n int
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func increment(ctx context.Context, tx *sql.Tx) error {
	var n int
	if err := tx.QueryRowContext(ctx, `select n from counter`).Scan(&n); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `update counter set n = $1`, n+1)
	return err
}

// readModifyWrite checks that holders take turns, and see what the one before
// wrote.
func readModifyWrite(t *testing.T, s *setting) {
	const goroutines, turns = 8, 10
	errs := make([]error, goroutines)
	var group sync.WaitGroup
	for i := range goroutines {
		group.Go(func() {
			for done := 0; done < turns; {
				err := []*xactlock.Locker{s.l, s.otherL}[i%2].WithTx(t.Context(), key, increment)
				if s.falseFailure(err) {
					continue
				}
				errs[i] = errors.Join(errs[i], err)
				done++
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if n := number(t, s.watcher, `select n from counter`); n != goroutines*turns {
		t.Errorf("n = %d after %d increments", n, goroutines*turns)
	}
}

// falseFailure reports whether err is the rare one that SERIALIZABLE transactions
// behind a pooler can fail with although no two holders overlapped.
func (s *setting) falseFailure(err error) bool {
	var state interface{ SQLState() string }
	return s.pooler && s.isolation == sql.LevelSerializable && errors.As(err, &state) && state.SQLState() == "40001"
}

// unchanged checks that nothing was committed.
func (s *setting) unchanged(t *testing.T) {
	t.Helper()
	if n := number(t, s.watcher, `select n from counter`); n != 0 {
		t.Errorf("n = %d, and nothing was to be committed", n)
	}
}

func errorRollsBack(t *testing.T, s *setting) {
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		if err := increment(ctx, tx); err != nil {
			return err
		}
		return errExpected
	})
	if err != errExpected {
		t.Errorf("got %v, want fn's error", err)
	}
	s.unchanged(t)
}

func panicRollsBack(t *testing.T, s *setting) {
	defer s.unchanged(t)
	defer func() {
		if value := recover(); value != errExpected {
			t.Errorf("recovered %v, want fn's value", value)
		}
	}()
	_ = s.l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		if err := increment(ctx, tx); err != nil {
			t.Error(err)
		}
		panic(errExpected)
	})
}

// failedStatement checks that the lock is held while fn handles an error, and
// that an error it swallows is one all the same.
func failedStatement(t *testing.T, s *setting) {
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		if err := increment(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `select 1/0`); err == nil {
			t.Error("1/0 is a number")
		}
		if err := s.otherL.TryWithTx(t.Context(), key, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) {
			t.Errorf("another one meanwhile: %v, want ErrNotAcquired", err)
		}
		return nil
	})
	if err == nil || errors.Is(err, xactlock.ErrCommitUnknown) {
		t.Errorf("got %v, want an error that says nothing is committed", err)
	}
	s.unchanged(t)
}

// commitInside checks that fn's own end of the transaction is noticed. Only on
// pgx can it be prevented.
func commitInside(t *testing.T, s *setting) {
	for name, end := range map[string]func(*sql.Tx) error{
		"Commit":   (*sql.Tx).Commit,
		"Rollback": (*sql.Tx).Rollback,
		"text":     func(tx *sql.Tx) error { _, err := tx.Exec(`commit`); return err },
	} {
		err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
			_ = end(tx)
			return nil
		})
		if !errors.Is(err, xactlock.ErrTxEnded) {
			t.Errorf("%s inside: %v, want ErrTxEnded", name, err)
		}
		s.nothingLeft(t)
	}
}

// tryConflict checks that a try is refused while the lock is held.
func tryConflict(t *testing.T, s *setting) {
	err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
		if n := s.held(t); n != 1 {
			t.Errorf("%d locks are held, want 1", n)
		}
		return s.otherL.TryWithTx(t.Context(), key, unreachable(t))
	})
	if !errors.Is(err, xactlock.ErrNotAcquired) {
		t.Errorf("got %v, want ErrNotAcquired", err)
	}
	if err := s.otherL.TryWithTx(t.Context(), key, increment); err != nil {
		t.Error(err)
	}
}

func unreachable(t *testing.T) xactlock.Func {
	return func(context.Context, *sql.Tx) error {
		t.Error("fn ran")
		return nil
	}
}

// endOfWait checks that a wait ends with its ctx, on the server too, whether
// by a cancellation or a deadline, and that the next one works.
func endOfWait(t *testing.T, s *setting) {
	err := s.l.WithTx(t.Context(), key, func(context.Context, *sql.Tx) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- s.otherL.WithTx(ctx, key, unreachable(t)) }()
		until(t, "the call waits", func() bool { return s.waiting(t) == 1 })
		cancel()
		if err := <-done; !errors.Is(err, xactlock.ErrNotAcquired) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v, want ErrNotAcquired joined with context.Canceled", err)
		}
		until(t, "nobody waits", func() bool { return s.waiting(t) == 0 })
		ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := s.otherL.WithTx(ctx, key, unreachable(t)); !errors.Is(err, xactlock.ErrNotAcquired) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("past the deadline: %v, want ErrNotAcquired joined with context.DeadlineExceeded", err)
		}
		until(t, "nobody waits", func() bool { return s.waiting(t) == 0 })
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.otherL.WithTx(t.Context(), key, increment); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// manyKeys checks that several keys are held and freed together, also after a
// wait for one of them.
func manyKeys(t *testing.T, s *setting) {
	keys := []hashkey.Key{hashkey.Pair(1, -1), hashkey.Int64(-1), key, hashkey.Int64(-1)}
	holding := make(chan struct{})
	leave := make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- s.l.WithTx(t.Context(), hashkey.Pair(1, -1), func(context.Context, *sql.Tx) error {
			close(holding)
			<-leave
			return nil
		})
	}()
	<-holding
	second := make(chan error, 1)
	go func() {
		second <- s.otherL.WithTxAll(t.Context(), keys, func(ctx context.Context, tx *sql.Tx) error {
			if n := s.held(t); n != 3 {
				t.Errorf("%d locks are held, want 3", n)
			}
			return increment(ctx, tx)
		})
	}()
	until(t, "the call waits", func() bool { return s.waiting(t) == 1 })
	close(leave)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Error(err)
	}
	if n := s.held(t); n != 0 {
		t.Errorf("%d locks are held after the call", n)
	}
}

// ownTransaction checks Lock, TryLock and Token on a transaction of the
// program's own.
func ownTransaction(t *testing.T, s *setting) {
	tx, err := s.db.BeginTx(t.Context(), &sql.TxOptions{Isolation: s.isolation})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	keys := []hashkey.Key{key, hashkey.Int64(1)}
	if s.isolation != sql.LevelDefault {
		if err := s.l.Lock(t.Context(), tx, keys...); !errors.Is(err, xactlock.ErrStaleSnapshot) {
			t.Errorf("Lock: %v, want ErrStaleSnapshot", err)
		}
		if ok, err := s.l.TryLock(t.Context(), tx, keys...); ok || !errors.Is(err, xactlock.ErrStaleSnapshot) {
			t.Errorf("TryLock: %t, %v, want ErrStaleSnapshot", ok, err)
		}
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
		return
	}
	if err := s.l.Lock(t.Context(), tx, key); err != nil {
		t.Error(err)
	}
	other, err := s.other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()
	if ok, err := s.otherL.TryLock(t.Context(), other, keys...); ok || err != nil {
		t.Errorf("TryLock of what is held: %t, %v, want false", ok, err)
	}
	if n := s.held(t); n != 1 {
		t.Errorf("%d locks are held, want 1", n)
	}
	token, err := xactlock.Token(t.Context(), tx)
	if err != nil {
		t.Error(err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	if ok, err := s.otherL.TryLock(t.Context(), other, keys...); !ok || err != nil {
		t.Errorf("TryLock of what is free: %t, %v", ok, err)
	}
	if later, err := xactlock.Token(t.Context(), other); err != nil || later <= token {
		t.Errorf("token %d after %d, %v", later, token, err)
	}
	if err := other.Commit(); err != nil {
		t.Error(err)
	}
}

// containsAll reports whether s contains all parts.
func containsAll(s string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(s, part) {
			return false
		}
	}
	return true
}
