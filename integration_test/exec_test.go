package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// newTable returns a pool on a database with a table t of three rows, n = 0.
func newTable(t *testing.T, m *meter) *sql.DB {
	t.Helper()
	db := openMetered(t, newDatabase(t), m)
	exec(t, db, `create table t (id int primary key, n int)`)
	exec(t, db, `insert into t select id, 0 from generate_series(1, 3) id`)
	return db
}

// An Exec is one message, once its statement is prepared on the connection,
// and tells how many rows it affected. What is prepared is the same for every
// key.
func TestExecIsOneMessage(t *testing.T) {
	t.Parallel()
	var m meter
	db := newTable(t, &m)
	db.SetMaxOpenConns(1)
	for name, o := range map[string]xactlock.Options{"exclusive": {}, "shared": {Shared: true}, "Wait": {Wait: time.Minute}, "read only": {ReadOnly: true}} {
		t.Run(name, func(t *testing.T) {
			query := `update t set n = n + $1 where id <= $2`
			if o.ReadOnly {
				query = `select id from t where n >= $1 and id <= $2`
			}
			l := xactlock.New(db).With(o)
			if _, err := l.Exec(t.Context(), hashkey.Name("first"), query, 0, 2); err != nil {
				t.Fatal(err)
			}
			for _, key := range []hashkey.Key{hashkey.Name("k"), hashkey.Int64(math.MinInt64), hashkey.Int64(math.MaxInt64), hashkey.Int64(-1)} {
				n := m.during(t, func() error {
					result, err := l.Exec(t.Context(), key, query, 0, 2)
					if err != nil {
						return err
					}
					if rows, err := result.RowsAffected(); rows != 2 || err != nil {
						t.Errorf("%d rows affected, %v; want 2", rows, err)
					}
					return nil
				})
				if n != 1 {
					t.Errorf("%v: %d messages, want 1", key, n)
				}
			}
		})
	}
	noTrace(t, openSame(t, db), db)
}

// Exec locks: the lock it waits for is the one that is held elsewhere.
func TestExecWaitsForItsLock(t *testing.T) {
	t.Parallel()
	for _, key := range []hashkey.Key{hashkey.Name("k"), hashkey.Int64(math.MinInt64), hashkey.Pair(math.MinInt32, -1)} {
		for name, o := range paths {
			t.Run(key.String()+name, func(t *testing.T) {
				db := newTable(t, new(meter))
				h := hold(t, xactlock.New(db), key)
				done := make(chan error, 1)
				go func() {
					_, err := xactlock.New(db).With(o).Exec(t.Context(), key, `update t set n = n + 1`)
					done <- err
				}()
				until(t, "the Exec waits on the server", func() bool { return waitingLocks(t, db) == 1 })
				if n := number(t, db, `select sum(n) from t`); n != 0 {
					t.Errorf("the statement ran without the lock")
				}
				if err := h.release(); err != nil {
					t.Error(err)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := number(t, db, `select sum(n) from t`); n != 3 {
					t.Errorf("n = %d, want 3", n)
				}
			})
		}
	}
}

// However the wait of an Exec ends, that is ErrNotAcquired, and leaves nothing.
func TestExecEnds(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		for name, o := range paths {
			t.Run(ending.name+"/"+name, func(t *testing.T) {
				db := newTable(t, new(meter))
				h := hold(t, xactlock.New(db), hashkey.Name("k"))
				o := o
				ctx, cancel := ending.begin(t.Context(), &o)
				defer cancel()
				done := make(chan error, 1)
				go func() {
					_, err := xactlock.New(db).With(o).Exec(ctx, hashkey.Name("k"), `update t set n = n + 1`)
					done <- err
				}()
				if ending.why == context.Canceled {
					until(t, "the Exec waits on the server", func() bool { return waitingLocks(t, db) == 1 })
					cancel()
				}
				notAcquired(t, <-done, ending.why)
				if err := h.release(); err != nil {
					t.Error(err)
				}
				noTrace(t, db)
				if n := number(t, db, `select sum(n) from t`); n != 0 {
					t.Errorf("the statement ran")
				}
			})
		}
	}
}

// A statement that fails comes back with the driver's error, leaves no lock
// and no transaction, and costs no connection.
func TestExecFails(t *testing.T) {
	t.Parallel()
	var m meter
	db := newTable(t, &m)
	dials := m.dials.Load()
	l := xactlock.New(db)
	for query, code := range map[string]string{
		`update t set n = 1/(n-n)`:   "22012",
		`update nowhere set n = 1`:   "42P01",
		`updaet t`:                   "42601",
		`insert into t values (1,1)`: "23505",
	} {
		for range 2 {
			_, err := l.Exec(t.Context(), hashkey.Name("k"), query)
			var pgErr interface{ SQLState() string }
			if !errors.As(err, &pgErr) || pgErr.SQLState() != code || errors.Is(err, xactlock.ErrCommitUnknown) {
				t.Errorf("%s: %v, want SQLSTATE %s", query, err, code)
			}
		}
	}
	exec(t, db, `create table once (n int unique deferrable initially deferred)`)
	if _, err := l.Exec(t.Context(), hashkey.Name("k"), `insert into once values (1), (1)`); sqlState(err) != "23505" {
		t.Errorf("a commit that fails: %v", err)
	}
	if n := m.dials.Load() - dials; n != 0 {
		t.Errorf("it cost %d connections", n)
	}
	noTrace(t, db)
}

// ctx ending while the statement runs, which is after the grant.
func TestExecCancelled(t *testing.T) {
	t.Parallel()
	db := newTable(t, new(meter))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := xactlock.New(db).Exec(ctx, hashkey.Name("k"), `update t set n = (select 1 from pg_sleep(3600))`)
		done <- err
	}()
	untilOneSleeps(t, db)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, xactlock.ErrNotAcquired) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	noTrace(t, db)
}

// The statement of an Exec may have to wait before it is so much as prepared,
// for a table. If its session ends there, nothing has happened, and it goes on
// in another; if its ctx ends, it was not granted the lock.
func TestExecWaitsToBePrepared(t *testing.T) {
	t.Parallel()
	for _, ending := range []string{"session", "ctx"} {
		t.Run(ending, func(t *testing.T) {
			db := newTable(t, new(meter))
			tx := begin(t, db, nil)
			if _, err := tx.Exec(`lock table t in access exclusive mode`); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := xactlock.New(db).Exec(ctx, hashkey.Name("k"), `update t set n = n + $1`, 1)
				done <- err
			}()
			const waits = ` from pg_stat_activity where wait_event_type = 'Lock' and wait_event = 'relation' and datname = current_database()`
			until(t, "the Exec waits for the table", func() bool { return number(t, db, `select count(*)`+waits) == 1 })
			want := 3
			if ending == "ctx" {
				want = 0
				cancel()
				notAcquired(t, <-done, context.Canceled)
			} else {
				first := number(t, db, `select pid`+waits)
				exec(t, db, `select pg_terminate_backend($1)`, first)
				until(t, "it waits in another session", func() bool {
					return number(t, db, `select count(*)`+waits+` and pid <> $1`, first) == 1
				})
			}
			if err := tx.Rollback(); err != nil {
				t.Error(err)
			}
			if ending == "session" {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if n := number(t, db, `select sum(n) from t`); n != want {
				t.Errorf("sum of n = %d, want %d", n, want)
			}
			noTrace(t, db)
		})
	}
}

// The answer is lost on the way: nobody knows whether it is committed.
func TestExecCommitUnknown(t *testing.T) {
	t.Parallel()
	for _, hang := range []bool{false, true} {
		direct := newDatabase(t)
		p, through := newProxy(t, direct)
		db := openDB(t, direct, through)
		exec(t, db, `create table t (n int)`)
		if _, err := xactlock.New(db).Exec(t.Context(), hashkey.Name("k"), `insert into t values ($1)`, 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// The statements are prepared by now, so no text is on the wire: the
		// proxy goes by the parameter.
		s := &swallow{text: "swallow me", hang: hang, reached: make(chan struct{})}
		exec(t, db, `alter table t add s text`)
		p.swallow.Store(s)
		done := make(chan error, 1)
		go func() {
			_, err := xactlock.New(db).Exec(ctx, hashkey.Name("k"), `insert into t (s) values ($1)`, "swallow me")
			done <- err
		}()
		received(t, "the statement is sent", s.reached)
		if hang {
			cancel()
		}
		if err := <-done; !errors.Is(err, xactlock.ErrCommitUnknown) {
			t.Errorf("hang %t: got %v, want ErrCommitUnknown", hang, err)
		}
		p.cutAll()
		noTrace(t, openDB(t, direct), db)
	}
}

// Through PgBouncer, in each of the modes that need no prepared statements.
func TestExecThroughPgBouncer(t *testing.T) {
	t.Parallel()
	direct := newDatabase(t)
	dsn := pgtest.Bouncer(t, direct, "transaction")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheDescribe} {
		t.Run(mode.String(), func(t *testing.T) {
			db := openDB(t, dsn, func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
			exec(t, db, `drop table if exists t`)
			exec(t, db, `create table t (n int)`)
			exec(t, db, `insert into t values (0)`)
			err := parallel(16, func(int) error {
				for range 10 {
					if _, err := xactlock.New(db).Exec(t.Context(), hashkey.Int64(math.MinInt64), `update t set n = n + $1`, 1); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if n := number(t, db, `select n from t`); n != 160 {
				t.Errorf("n = %d, want 160", n)
			}
			noTrace(t, db)
		})
	}
}

// Execs that follow one another see each other's effects, and so do WithTx
// calls between them.
func TestExecAndWithTxTakeTurns(t *testing.T) {
	t.Parallel()
	db := newTable(t, new(meter))
	exec(t, db, `create table counter (n int)`)
	exec(t, db, `insert into counter values (0)`)
	l := xactlock.New(db)
	err := parallel(24, func(i int) error {
		for range 10 {
			var err error
			if i%2 == 0 {
				_, err = l.Exec(t.Context(), hashkey.Name("counter"), `update counter set n = n + 1`)
			} else {
				err = l.WithTx(t.Context(), hashkey.Name("counter"), increment)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := number(t, db, `select n from counter`); n != 240 {
		t.Errorf("n = %d, want 240", n)
	}
	noTrace(t, db)
}

// The role's limits do not cut the wait of an Exec, and hold for its
// statement.
func TestExecUnderLimits(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	watcher := openDB(t, dsn)
	watcher.SetMaxOpenConns(1) // which knows no limits: it is older
	exec(t, watcher, `create table t (lock text, statement text)`)
	alterDatabase(t, dsn, "lock_timeout", "30ms")
	alterDatabase(t, dsn, "statement_timeout", "60ms")
	db := openDB(t, dsn)
	h := hold(t, xactlock.New(db), hashkey.Name("k"))
	done := make(chan error, 1)
	go func() {
		_, err := xactlock.New(db).Exec(t.Context(), hashkey.Name("k"),
			`insert into t values (current_setting('lock_timeout'), current_setting('statement_timeout'))`)
		done <- err
	}()
	until(t, "the Exec has waited for longer than they allow", func() bool {
		return number(t, watcher, `select count(*) from pg_locks where waitstart < now() - interval '200 ms' and`+inThisDatabase) == 1
	})
	if err := h.release(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := number(t, watcher, `select count(*) from t where lock = '30ms' and statement = '60ms'`); n != 1 {
		t.Error("the statement did not find the role's limits")
	}
}

// An Exec whose session is ended while its statement runs is over: the statement is
// not executed again.
func TestExecTerminatedWhileItRuns(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db, watcher := openDB(t, dsn), openDB(t, dsn)
	exec(t, watcher, `create sequence runs`)
	warm(t, db, 1)
	for _, wait := range []time.Duration{0, time.Second} { // which is over when the session is ended
		exec(t, watcher, `alter sequence runs restart`)
		var event xactlock.Event
		l := xactlock.New(db).With(xactlock.Options{Wait: wait, Observe: func(e xactlock.Event) { event = e }})
		ended := make(chan error, 1)
		go func() {
			_, err := l.Exec(bounded(t), hashkey.Name("k"), `select nextval('runs'), pg_sleep(60)`)
			ended <- err
		}()
		until(t, "it runs", func() bool {
			return number(t, watcher, `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()
				and clock_timestamp() - query_start > $1 * interval '1 microsecond'`, wait.Microseconds()) == 1
		})
		exec(t, watcher, `select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`)
		wantError(t, <-ended, xactlock.ErrLost)
		if n := number(t, watcher, `select last_value from runs`); n != 1 || event.Outcome != xactlock.RolledBack {
			t.Errorf("Wait %v: it ran %d times, outcome %v", wait, n, event.Outcome)
		}
	}
	noTrace(t, watcher, db)
}
