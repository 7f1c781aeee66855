package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// beginOn is the begin of a WithTxOf with a *sql.Tx.
func beginOn(db *sql.DB, o *sql.TxOptions) func(context.Context) (*sql.Tx, error) {
	return func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, o) }
}

// withTxOf is WithTxOf with a *sql.Tx of db.
func withTxOf(ctx context.Context, db *sql.DB, l *xactlock.Locker, key hashkey.Key, fn xactlock.Func) error {
	return xactlock.WithTxOf(ctx, l, key, beginOn(db, nil), fn)
}

// fn runs in begin's transaction, which holds the lock and commits, in four
// messages.
func TestWithTxOf(t *testing.T) {
	t.Parallel()
	var m meter
	db := openMetered(t, newDatabase(t), &m)
	db.SetMaxOpenConns(1)
	exec(t, db, `create table t (n int)`)
	for _, key := range []hashkey.Key{hashkey.Name("k"), hashkey.Int64(-1 << 63), hashkey.Pair(-1, 2)} {
		for _, shared := range []bool{false, true} {
			var events []xactlock.Event
			l := xactlock.New(db).With(xactlock.Options{Shared: shared, Observe: func(e xactlock.Event) { events = append(events, e) }})
			var begun *sql.Tx
			begin := func(ctx context.Context) (tx *sql.Tx, err error) {
				begun, err = db.BeginTx(ctx, nil)
				return begun, err
			}
			fn := func(ctx context.Context, tx *sql.Tx) error {
				if tx != begun {
					t.Error("fn's transaction is another one than begin's")
				}
				holds(t, tx, shared, key)
				return insert(ctx, tx)
			}
			before := rows(t, db)
			if err := xactlock.WithTxOf(t.Context(), l, key, begin, fn); err != nil {
				t.Fatal(err)
			}
			if n := rows(t, db) - before; n != 1 {
				t.Errorf("%d rows were committed, want 1", n)
			}
			if e := once(t, events); e.Op != "WithTxOf" || !e.Plain || e.Outcome != xactlock.Committed || e.Contended || e.Shared != shared {
				t.Errorf("%+v", e)
			}
			empty := func(context.Context, *sql.Tx) error { return nil }
			if n := m.during(t, func() error { return xactlock.WithTxOf(t.Context(), l, key, begin, empty) }); n != 4 {
				t.Errorf("%d messages, want 4", n)
			}
		}
	}
	noTrace(t, db)
}

// An error and a panic of fn roll back and reach the caller, a failed statement
// does not free the lock, and a call whose fn does not tell of it fails.
func TestWithTxOfRollsBack(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	l, key := xactlock.New(db), hashkey.Name("k")
	err := withTxOf(t.Context(), db, l, key, func(ctx context.Context, tx *sql.Tx) error {
		return errors.Join(insert(ctx, tx), errExpected)
	})
	wantError(t, err, errExpected)
	func() {
		defer func() {
			if value := recover(); value != errExpected {
				t.Errorf("recovered %v", value)
			}
		}()
		_ = withTxOf(t.Context(), db, l, key, func(ctx context.Context, tx *sql.Tx) error {
			_ = insert(ctx, tx)
			panic(errExpected)
		})
	}()
	err = withTxOf(t.Context(), db, l, key, func(ctx context.Context, tx *sql.Tx) error {
		_ = insert(ctx, tx)
		_, _ = tx.ExecContext(ctx, `select 1/0`)
		return xactlock.New(db).TryWithTx(context.Background(), key, unreachable(t))
	})
	wantError(t, err, xactlock.ErrNotAcquired)
	err = withTxOf(t.Context(), db, l, key, func(ctx context.Context, tx *sql.Tx) error {
		_ = insert(ctx, tx)
		_, _ = tx.ExecContext(ctx, `select 1/0`)
		return nil
	})
	wantError(t, err, pgx.ErrTxCommitRollback)
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows, want 0", n)
	}
	noTrace(t, db)
}

// An fn that ends the transaction is told so, whatever way it does.
func TestWithTxOfEndedInside(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db)
	for name, end := range map[string]func(*sql.Tx) error{
		"Commit":         (*sql.Tx).Commit,
		"Rollback":       (*sql.Tx).Rollback,
		"text":           func(tx *sql.Tx) error { _, err := tx.Exec(`commit`); return err },
		"text and begin": func(tx *sql.Tx) error { _, err := tx.Exec(`rollback; begin`); return err },
	} {
		err := withTxOf(t.Context(), db, l, hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error { return end(tx) })
		if !errors.Is(err, xactlock.ErrTxEnded) {
			t.Errorf("%s: got %v, want ErrTxEnded", name, err)
		}
		noTrace(t, db)
	}
}

// Of many calls for one key one waits with a connection, and begins anew for each
// slice. Each sees what the one before has committed.
func TestWithTxOfWaits(t *testing.T) {
	t.Parallel()
	for _, poll := range []time.Duration{0, time.Millisecond} {
		t.Run(fmt.Sprintf("poll=%v", poll), func(t *testing.T) {
			watcher := newDB(t)
			db := openSame(t, watcher)
			exec(t, watcher, `create table counter (n int)`)
			exec(t, watcher, `insert into counter values (0)`)
			l, key := xactlock.New(db).With(xactlock.Options{Poll: poll}), hashkey.Name("k")
			k := lock(t, sessionlock.New(watcher), key) // a holder that has no snapshot
			var begun atomic.Int64
			begin := func(ctx context.Context) (*sql.Tx, error) {
				begun.Add(1)
				return db.BeginTx(ctx, nil)
			}
			const calls = 5
			done := make(chan error, 1)
			go func() {
				done <- parallel(calls, func(int) error { return xactlock.WithTxOf(t.Context(), l, key, begin, increment) })
			}()
			until(t, "a call has begun anew", func() bool {
				if n := db.Stats().InUse; n > 1 {
					t.Fatalf("%d connections are in use", n)
				}
				return begun.Load() >= 3
			})
			unlock(t, k)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := number(t, watcher, `select n from counter`); n != calls {
				t.Errorf("n = %d after %d increments", n, calls)
			}
			noTrace(t, watcher, db)
		})
	}
}

// However a wait ends, the error says why, and nothing is left.
func TestWithTxOfWaitEnds(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	h := hold(t, xactlock.New(db), hashkey.Name("k"))
	for _, ending := range endings {
		var o xactlock.Options
		ctx, cancel := ending.begin(bounded(t), &o)
		done := make(chan error, 1)
		go func() {
			done <- withTxOf(ctx, db, xactlock.New(db).With(o), hashkey.Name("k"), unreachable(t))
		}()
		if ending.why == context.Canceled {
			until(t, "the call waits", func() bool { return waitingLocks(t, db) == 1 })
			cancel()
		}
		notAcquired(t, <-done, ending.why)
		cancel()
		until(t, "nobody waits", func() bool { return waitingLocks(t, db) == 0 })
	}
	if err := h.release(); err != nil {
		t.Error(err)
	}
	noTrace(t, db)
}

// The lock outlives the caller's ctx: nobody else is in before fn returns.
func TestWithTxOfLockOutlivesCtx(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l, key := xactlock.New(db), hashkey.Name("k")
	ctx, cancel := context.WithCancel(t.Context())
	err := withTxOf(ctx, db, l, key, func(ctx context.Context, tx *sql.Tx) error {
		cancel()
		<-ctx.Done()
		for range 10 { // database/sql would roll back in another goroutine
			wantError(t, xactlock.New(db).TryWithTx(context.Background(), key, unreachable(t)), xactlock.ErrNotAcquired)
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	wantError(t, err, context.Canceled)
	noTrace(t, db)
}

// The level is begin's: one whose snapshot may be older than the lock is refused.
func TestWithTxOfStaleSnapshot(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		err := xactlock.WithTxOf(t.Context(), xactlock.New(db), hashkey.Name("k"), beginOn(db, &sql.TxOptions{Isolation: level}), unreachable(t))
		wantError(t, err, xactlock.ErrStaleSnapshot)
		h := hold(t, xactlock.New(db), hashkey.Name("k"))
		err = xactlock.WithTxOf(t.Context(), xactlock.New(db), hashkey.Name("k"), beginOn(db, &sql.TxOptions{Isolation: level}), unreachable(t))
		wantError(t, err, xactlock.ErrStaleSnapshot)
		if err := h.release(); err != nil {
			t.Error(err)
		}
	}
	noTrace(t, db)
}

// A call made with the ctx of a callback is refused, in either direction.
func TestWithTxOfNested(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l := xactlock.New(db)
	inner := func(ctx context.Context) error {
		return withTxOf(ctx, db, l, hashkey.Name("inner"), unreachable(t))
	}
	wantError(t, l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, _ *sql.Tx) error { return inner(ctx) }), xactlock.ErrNested)
	wantError(t, withTxOf(t.Context(), db, l, hashkey.Name("k"), func(ctx context.Context, _ *sql.Tx) error { return inner(ctx) }), xactlock.ErrNested)
	noTrace(t, db)
}

// A begin that fails, panics or returns nothing is an error, or the panic, and
// leaves nothing.
func TestWithTxOfBeginFails(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	l, key := xactlock.New(db), hashkey.Name("k")
	call := func(begin func(context.Context) (*sql.Tx, error)) error {
		return xactlock.WithTxOf(t.Context(), l, key, begin, unreachable(t))
	}
	err := call(func(context.Context) (*sql.Tx, error) { return nil, errExpected })
	wantError(t, err, errExpected)
	if !strings.Contains(err.Error(), "k") {
		t.Errorf("%v does not name the key", err)
	}
	for says, err := range map[string]error{
		"neither a transaction nor an error": call(func(context.Context) (*sql.Tx, error) { return nil, nil }),
		"begin is nil":                       call(nil),
		"nil or zero":                        xactlock.WithTxOf(t.Context(), nil, key, beginOn(db, nil), unreachable(t)),
		"fn is nil":                          xactlock.WithTxOf(t.Context(), l, key, beginOn(db, nil), nil),
		"Options.Wait": xactlock.WithTxOf(t.Context(), l.With(xactlock.Options{Wait: -1}), key,
			beginOn(db, nil), unreachable(t)),
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error that says %q", err, says)
		}
	}
	func() {
		defer func() {
			if value := recover(); value != errExpected {
				t.Errorf("recovered %v", value)
			}
		}()
		_ = call(func(context.Context) (*sql.Tx, error) { panic(errExpected) })
	}()
	if err := withTxOf(t.Context(), db, l, key, nothing); err != nil { // the line is free
		t.Error(err)
	}
	noTrace(t, db)
}

// A session that is gone when fn has returned is a loss, whatever has ended it. If the
// driver knows, it refuses RELEASE as it does when rows are open, and the end is unknown.
func TestWithTxOfLost(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	terminate := func(tx *sql.Tx, pid int) error {
		_, err := db.Exec(`select pg_terminate_backend($1)`, pid)
		return err
	}
	for name, test := range map[string]struct {
		end  func(tx *sql.Tx, pid int) error
		told bool // the driver
		want error
	}{
		"terminated":       {end: terminate, want: xactlock.ErrLost},
		"terminated, told": {end: terminate, told: true, want: xactlock.ErrCommitUnknown},
		"silent": {end: func(tx *sql.Tx, _ int) error {
			_, err := tx.Exec(`set local idle_in_transaction_session_timeout = 1`)
			return err
		}, want: xactlock.ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			err := withTxOf(t.Context(), db, xactlock.New(db), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error {
				pid := number(t, tx, `select pg_backend_pid()`)
				if err := test.end(tx, pid); err != nil {
					return err
				}
				until(t, "the session is gone", func() bool {
					return number(t, db, `select count(*) from pg_stat_activity where pid = $1`, pid) == 0
				})
				if test.told {
					_, _ = tx.Exec(`select 1`)
				}
				return nil
			})
			wantError(t, err, test.want)
		})
	}
	noTrace(t, db)
}

// A panic inside a query leaves a lock of database/sql's taken, for which a
// rollback waits for ever. The panic reaches the caller all the same, and the
// server frees the lock.
func TestWithTxOfPanicInsideAQuery(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	config, err := pgx.ParseConfig(dsnOf(t, watcher))
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config) // of which a connection stays in use
	defer db.Close()
	l, key := xactlock.New(db).With(xactlock.Options{MaxHold: 100 * time.Millisecond, Grace: 100 * time.Millisecond}), hashkey.Name("k")
	panicked := make(chan any, 1)
	go func() {
		defer func() { panicked <- recover() }()
		_ = withTxOf(t.Context(), db, l, key, func(ctx context.Context, tx *sql.Tx) error {
			return tx.QueryRowContext(ctx, `select $1::text`, panicking{}).Scan(new(string))
		})
	}()
	select {
	case value := <-panicked:
		if value != errExpected {
			t.Errorf("recovered %v", value)
		}
	case <-time.After(patience):
		t.Fatal("the call hangs")
	}
	if err := xactlock.New(watcher).WithTx(bounded(t), key, nothing); err != nil {
		t.Error(err)
	}
	noTrace(t, watcher)
}

// An error of begin is the caller's own, whatever its SQLSTATE.
func TestWithTxOfBeginsOwnError(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	_, err := begin(t, db, nil).Exec(`lock table t`)
	wantNoError(t, err)
	err = xactlock.WithTxOf(t.Context(), xactlock.New(db), key, func(ctx context.Context) (*sql.Tx, error) {
		tx, err := db.BeginTx(ctx, nil)
		wantNoError(t, err)
		if _, err := tx.ExecContext(ctx, `lock table t nowait`); err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
		return tx, nil
	}, func(context.Context, *sql.Tx) error { return nil })
	if lockerr.SQLState(err) != "55P03" || errors.Is(err, xactlock.ErrNotAcquired) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want begin's error and no other", err)
	}
}
