package integration_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A tracer of pgx's sees fn's statements, and the messages that open and end the
// transaction, each under the ctx that it was sent with.
func TestPgxTracer(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	ctx := context.WithValue(t.Context(), spanKey{}, "call")
	const open = "begin isolation level read committed;select pg_catalog.pg_try_advisory_xact_lock('7'::bigint) where not pg_catalog.pg_is_in_recovery();savepoint pgadvisory"
	short := func(told []string) (all []string) {
		for _, line := range told {
			line = strings.TrimPrefix(line, "call> ")
			line = strings.Join(strings.Fields(strings.ReplaceAll(line, "; ", ";")), " ")
			all = append(all, line)
		}
		return all
	}
	seven := hashkey.Int64(7)
	if err := s.l.WithTx(ctx, seven, func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Fatal(err) // and the connection is there
	}
	holder := hold(t, xactlock.New(s.watcher), hashkey.Name("taken"))
	for name, test := range map[string]struct {
		call func() error
		want []string
	}{
		"commits": {func() error {
			return s.l.WithTx(ctx, seven, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(context.WithValue(ctx, spanKey{}, "fn"), `insert into t values (1)`)
				return err
			})
		}, []string{open + ": SAVEPOINT", "fn> insert into t values (1): INSERT 0 1", "release savepoint pgadvisory;commit: COMMIT"}},
		"rolls back": {func() error {
			err := s.l.WithTx(ctx, seven, func(context.Context, pgx.Tx) error { return errExpected })
			return expect(errExpected, err)
		}, []string{open + ": SAVEPOINT", "rollback: ROLLBACK"}},
		"is refused": {func() error {
			err := s.l.TryWithTx(ctx, hashkey.Name("taken"), func(context.Context, pgx.Tx) error { return nil })
			return expect(pgxlock.ErrNotAcquired, err)
		}, nil},
		"Exec": {func() error {
			_, err := s.l.Exec(ctx, seven, `insert into t values ($1)`, 1)
			return err
		}, []string{"insert into t values ($1): INSERT 0 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			told := s.tracer.during(func() { err = test.call() })
			if err != nil {
				t.Error(err)
			}
			if test.want == nil {
				if len(told) != 2 || !strings.HasSuffix(told[1], "rollback: ROLLBACK ") {
					t.Errorf("told %q, want a question and a rollback", told)
				}
				return
			}
			if diff := cmp.Diff(test.want, short(told)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if err := holder.release(); err != nil {
		t.Error(err)
	}
}

// An uncontended call is two messages, whatever the options, and Exec one.
func TestPgxMessages(t *testing.T) {
	t.Parallel()
	s := newPgxStage(t)
	nothing := func(context.Context, pgx.Tx) error { return nil }
	cancellable, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, o := range everyOption() {
		l := s.l.With(o)
		for name, call := range map[string]func(context.Context) error{
			"WithTx":    func(ctx context.Context) error { return l.WithTx(ctx, key, nothing) },
			"TryWithTx": func(ctx context.Context) error { return l.TryWithTx(ctx, key, nothing) },
			"WithTxAll": func(ctx context.Context) error { return l.WithTxAll(ctx, someKeys, nothing) },
			"WithSlot":  func(ctx context.Context) error { return l.WithSlot(ctx, key, 2, nothing) },
			"fails": func(ctx context.Context) error {
				return expect(errExpected, l.WithTx(ctx, key, func(context.Context, pgx.Tx) error { return errExpected }))
			},
		} {
			if err := call(cancellable); err != nil { // and the statements are prepared
				t.Fatalf("%s %+v: %v", name, o, err)
			}
			if n := s.meter.during(t, func() error { return call(cancellable) }); n != 2 {
				t.Errorf("%s %+v: %d messages, want 2", name, o, n)
			}
		}
	}
	one := func() error { _, err := s.l.Exec(cancellable, key, `insert into t values ($1)`, 1); return err }
	if err := one(); err != nil {
		t.Fatal(err)
	}
	if n := s.meter.during(t, one); n != 1 {
		t.Errorf("Exec: %d messages, want 1", n)
	}
	if n := s.meter.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A call allocates little more than a transaction by hand.
func TestPgxAllocations(t *testing.T) {
	s := newPgxStage(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = nil })
	cancellable := t.Context()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable} {
		statement := func(tx pgx.Tx) error { _, err := tx.Exec(ctx, `select 1`); return err }
		byHand := testing.AllocsPerRun(500, func() {
			if err := pgx.BeginFunc(ctx, s.pool, statement); err != nil {
				t.Fatal(err)
			}
		})
		withTx := testing.AllocsPerRun(500, func() {
			err := s.l.WithTx(ctx, key, func(_ context.Context, tx pgx.Tx) error { return statement(tx) })
			if err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %.0f allocations by hand, %.0f with WithTx", name, byHand, withTx)
		if more := withTx - byHand; more > 15 {
			t.Errorf("%s: %.0f allocations more than by hand, want at most 15", name, more)
		}
	}
}

// What the program has prepared on the connection survives the calls, and the
// pool's hooks are run.
func TestPgxHooks(t *testing.T) {
	t.Parallel()
	var released int
	s := newPgxStage(t, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Prepare(ctx, "mine", `select 'mine'`)
			return err
		}
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { released++; return true, nil }
	})
	s.keepsItsConnection(t, func() {
		_, err := s.l.Exec(t.Context(), key, `select $1::int / 0`, 1)
		if sqlState(err) != "22012" {
			t.Error(err)
		}
		for range 2 {
			err := s.l.WithTx(t.Context(), key, func(ctx context.Context, tx pgx.Tx) error {
				var mine string
				err := tx.QueryRow(ctx, "mine").Scan(&mine)
				if mine != "mine" {
					t.Errorf("read %q", mine)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
		if released != 4 { // with the one for the test's own query
			t.Errorf("%d connections were handed out, want 4", released)
		}
	})
}

// A deadline that ends while a connection is tried, or made, costs none: it is there
// for the next call.
func TestPgxShortDeadline(t *testing.T) {
	t.Parallel()
	var m meter
	watcher := newDB(t)
	config, err := pgx.ParseConfig(dsnOf(t, watcher))
	if err != nil {
		t.Fatal(err)
	}
	m.on(config)
	distant(200 * time.Millisecond)(config)
	pool := openPool(t, config, func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	})
	l := pgxlock.New(pool)
	nothing := func(context.Context, pgx.Tx) error { return nil }
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		notAcquired(t, l.WithTx(ctx, key, nothing), context.DeadlineExceeded)
		cancel()
		until(t, "the connection is idle", func() bool { return pool.Stat().IdleConns() == 1 })
	}
	if err := l.WithTx(t.Context(), key, nothing); err != nil {
		t.Error(err)
	}
	if n := m.dials.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// Half of the pool is what waiters may take of it.
func TestPgxHotKeyLeavesThePoolAlone(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	config, err := pgx.ParseConfig(dsnOf(t, watcher))
	if err != nil {
		t.Fatal(err)
	}
	pool := openPool(t, config, func(c *pgxpool.Config) { c.MaxConns = 4 })
	l := pgxlock.New(pool)
	keys := make([]hashkey.Key, 8)
	var releases []func() error
	for i := range keys {
		keys[i] = hashkey.Int64(int64(i))
		releases = append(releases, hold(t, xactlock.New(watcher), keys[i]).release)
	}
	done := make(chan error, len(keys))
	for _, key := range keys {
		go func() { done <- l.WithTx(t.Context(), key, func(context.Context, pgx.Tx) error { return nil }) }()
	}
	until(t, "two calls wait on the server", func() bool { return waitingLocks(t, watcher) == 2 })
	for range 20 {
		if _, err := pool.Exec(bounded(t), `select 1`); err != nil {
			t.Error(err)
		}
		if n := pool.Stat().AcquiredConns(); n > 3 {
			t.Errorf("%d of 4 connections are in use", n)
		}
	}
	for _, release := range slices.Backward(releases) {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	for range keys {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	noTrace(t, watcher)
}

// A tracer that panics leaves neither a lock nor a connection in use.
func TestPgxTracerPanics(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	watcher := openDB(t, dsn)
	for _, at := range []string{"start", "end"} {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		var panics atomic.Bool
		config.Tracer = panickyTracer{at, &panics}
		pool := openPool(t, config)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic did not reach the caller", at)
				}
			}()
			_ = pgxlock.New(pool).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx pgx.Tx) error {
				panics.Store(true)
				_, err := tx.Exec(ctx, `select 1`)
				return err
			})
		}()
		until(t, at+": no connection is in use", func() bool { return pool.Stat().AcquiredConns() == 0 })
		becomesFree(t, watcher, hashkey.Name("k"))
	}
}

// panickyTracer panics at the start or the end of each statement.
type panickyTracer struct {
	at     string
	panics *atomic.Bool
}

func (p panickyTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if p.at == "start" && p.panics.Load() {
		panic("a tracer's")
	}
	return ctx
}

func (p panickyTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	if p.at == "end" && p.panics.Load() {
		panic("a tracer's")
	}
}
