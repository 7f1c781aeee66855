package integration_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// newCounters returns a pool on a database with a counter, a table of which
// each Exec adds a row, and one in which no two rows may be the same.
func newCounters(t *testing.T, m *meter, options ...func(*pgx.ConnConfig)) *sql.DB {
	t.Helper()
	db := openMetered(t, newDatabase(t), m, options...)
	exec(t, db, `create table counter (n int)`)
	exec(t, db, `insert into counter values (0)`)
	exec(t, db, `create table done (id int)`)
	exec(t, db, `create table once (id int unique deferrable initially deferred)`)
	return db
}

const increment1 = `update counter set n = n + $1`

// crowd keeps a key hot with Execs until the test ends or stop is called, and
// counts those that returned nil.
type crowd struct {
	stop func() error
	done atomic.Int64
}

func newCrowd(t *testing.T, l *xactlock.Locker, key hashkey.Key, goroutines int) *crowd {
	t.Helper()
	c := new(crowd)
	var over atomic.Bool
	ended := make(chan error, 1)
	go func() {
		ended <- parallel(goroutines, func(int) error {
			for !over.Load() {
				result, err := l.Exec(context.Background(), key, increment1, 1)
				if err != nil {
					return err
				}
				if rows, err := result.RowsAffected(); rows != 1 || err != nil {
					return fmt.Errorf("%d rows affected, %w", rows, err)
				}
				c.done.Add(1)
			}
			return nil
		})
	}()
	stopped := false
	c.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		over.Store(true)
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("an Exec hangs")
		}
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// However many Execs want one key, half of the pool is in use for it. Each runs
// once.
func TestExecsForOneKeyTakeHalfOfThePool(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			var m meter
			db := newCounters(t, &m, func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
			l := xactlock.New(db)
			const goroutines = 64
			each := stress(50)
			var most atomic.Int64
			m.during(t, func() error {
				return parallel(goroutines, func(int) error {
					for range each {
						result, err := l.Exec(t.Context(), hashkey.Name("k"), increment1, 1)
						if err != nil {
							return err
						}
						if rows, err := result.RowsAffected(); rows != 1 || err != nil {
							return fmt.Errorf("%d rows affected, %w", rows, err)
						}
						most.Store(max(most.Load(), int64(db.Stats().InUse)))
					}
					return nil
				})
			})
			if half := int64(db.Stats().MaxOpenConnections / 2); most.Load() > half {
				t.Errorf("%d connections in use, want at most %d", most.Load(), half)
			}
			if n := number(t, db, `select n from counter`); n != goroutines*each {
				t.Errorf("n = %d, want %d", n, goroutines*each)
			}
			noTrace(t, db)
		})
	}
}

// panicking is a parameter that panics when it is encoded.
type panicking struct{}

func (panicking) Value() (driver.Value, error) { panic(errExpected) }

// Whatever is wrong with one Exec, at whatever point, the others in its message
// do not notice.
func TestExecFailsAmongOthers(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			db := newCounters(t, new(meter), func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
			l := xactlock.New(db)
			others := newCrowd(t, l, hashkey.Name("k"), 16)
			for i := range stress(30) {
				until(t, "messages are shared", func() bool { return others.done.Load() > int64(100*(i+1)) })
				for _, test := range []struct {
					query, code string
					args        []any
				}{
					{`updaet counter`, "42601", nil},
					{`update nowhere set n = 1`, "42P01", nil},
					{`update counter set n = 1/(n-n)`, "22012", nil},
					{`insert into once values (1), (1)`, "23505", nil}, // at COMMIT
					{`update counter set n = $1`, "", []any{make(chan int)}},
					{`update counter set n = $1`, "panic", []any{panicking{}}},
				} {
					err := panicAsError(func() error {
						_, err := l.Exec(t.Context(), hashkey.Name("k"), test.query, test.args...)
						return err
					})
					switch {
					case err == nil, errors.Is(err, xactlock.ErrCommitUnknown):
						t.Errorf("%s: %v", test.query, err)
					case test.code == "panic" && !errors.Is(err, errExpected), test.code != "panic" && sqlState(err) != test.code:
						t.Errorf("%s: %v, want SQLSTATE %q", test.query, err, test.code)
					}
				}
			}
			if err := others.stop(); err != nil {
				t.Error(err)
			}
			if n := number(t, db, `select n from counter`); n != int(others.done.Load()) {
				t.Errorf("n = %d after %d Execs that succeeded", n, others.done.Load())
			}
			if n := number(t, db, `select count(*) from once`); n != 0 {
				t.Errorf("%d rows of Execs that failed", n)
			}
			noTrace(t, db)
		})
	}
}

// panicAsError returns the panic of f, whose value is an error.
func panicAsError(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = value.(error)
		}
	}()
	return f()
}

// Those whose ctx ends while the statement of another keeps their message from
// being answered do not wait for that; and it goes on, as do the others.
func TestExecGivesUpAmongOthers(t *testing.T) {
	t.Parallel()
	db := newCounters(t, new(meter))
	l := xactlock.New(db)
	key := hashkey.Name("k")
	others := newCrowd(t, l, key, 16)
	var done, not, unknown int
	for i := range stress(30) {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			until(t, "messages are shared", func() bool { return others.done.Load() > int64(200*(i+1)) })
			slowCtx, endSlow := context.WithCancel(bounded(t))
			defer endSlow()
			slow := make(chan error, 1)
			go func() {
				_, err := l.Exec(slowCtx, key, `update counter set n = n + (select 1 from pg_sleep(3600))`)
				slow <- err
			}()
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			hasty := make(chan error, 8)
			for range cap(hasty) {
				go func() {
					_, err := l.Exec(ctx, key, `insert into done values (1)`)
					hasty <- err
				}()
			}
			sleeps := func() bool {
				return number(t, db, `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`) == 1
			}
			until(t, "the slow one runs", sleeps)
			cancel()
			for range cap(hasty) {
				err := <-hasty
				switch {
				case err == nil:
					done++
				case errors.Is(err, xactlock.ErrCommitUnknown):
					unknown++
				case errors.Is(err, context.Canceled):
					not++
				default:
					t.Error(err)
				}
			}
			until(t, "the slow one runs, if again", sleeps)
			select {
			case err := <-slow:
				t.Errorf("the slow one has ended: %v", err)
			default:
			}
			endSlow()
			if err := <-slow; !errors.Is(err, context.Canceled) || errors.Is(err, xactlock.ErrCommitUnknown) {
				t.Errorf("the slow one: %v", err)
			}
		})
	}
	if err := others.stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%d done, %d not done, %d unknown", done, not, unknown)
	if n := number(t, db, `select n from counter`); n != int(others.done.Load()) {
		t.Errorf("n = %d after %d Execs that succeeded", n, others.done.Load())
	}
	if n := number(t, db, `select count(*) from done`); n < done || n > done+unknown {
		t.Errorf("%d were executed", n)
	}
	noTrace(t, db)
}

// When sessions are terminated under Execs that share messages, each of them
// is executed at most once, and says so, or says that it does not know.
func TestExecsTerminated(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(p *proxy, db *sql.DB) error{
		"terminated": func(_ *proxy, db *sql.DB) error {
			_, err := db.Exec(`select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() and application_name = 'crowd'`)
			return err
		},
		"cut": func(p *proxy, _ *sql.DB) error { p.cutAll(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			control := newCounters(t, new(meter))
			p, through := newProxy(t, dsnOf(t, control))
			db := openDB(t, dsnOf(t, control), through, func(c *pgx.ConnConfig) { c.RuntimeParams["application_name"] = "crowd" })
			l := xactlock.New(db)
			var done, unknown, failed atomic.Int64
			var over atomic.Bool
			ended := make(chan error, 1)
			go func() {
				ended <- parallel(32, func(int) error {
					for !over.Load() {
						switch _, err := l.Exec(t.Context(), hashkey.Name("k"), increment1, 1); {
						case err == nil:
							done.Add(1)
						case errors.Is(err, xactlock.ErrCommitUnknown):
							unknown.Add(1)
						default:
							failed.Add(1)
						}
					}
					return nil
				})
			}()
			for i := range stress(40) {
				until(t, "messages are shared", func() bool { return done.Load() > int64(200*(i+1)) })
				if err := cut(p, control); err != nil {
					t.Fatal(err)
				}
			}
			over.Store(true)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			t.Logf("%d done, %d unknown, %d failed", done.Load(), unknown.Load(), failed.Load())
			n := int64(number(t, control, `select n from counter`))
			if n < done.Load() || n > done.Load()+unknown.Load() {
				t.Errorf("%d were executed", n)
			}
			noTrace(t, control, db)
		})
	}
}

// While somebody holds the lock for long, one Exec waits on the server, and the
// others in memory. All run when it is free.
func TestExecsWaitForAHolder(t *testing.T) {
	t.Parallel()
	db := newCounters(t, new(meter))
	l := xactlock.New(db)
	others := newCrowd(t, l, hashkey.Name("k"), 32)
	for i := range 3 {
		until(t, "messages are shared", func() bool { return others.done.Load() > int64(300*(i+1)) })
		h := hold(t, l, hashkey.Name("k"))
		until(t, "one waits on the server", func() bool { return waitingLocks(t, db) == 1 && db.Stats().InUse == 2 })
		before := number(t, db, `select n from counter`)
		until(t, "it has waited for longer than an Exec next to others would", func() bool {
			return number(t, db, `select count(*) from pg_locks where waitstart < now() - interval '200 ms' and`+inThisDatabase) == 1
		})
		if n := number(t, db, `select n from counter`) - before; n != 0 {
			t.Errorf("%d Execs ran while somebody else had the lock", n)
		}
		if err := h.release(); err != nil {
			t.Error(err)
		}
	}
	if err := others.stop(); err != nil {
		t.Error(err)
	}
	if n := number(t, db, `select n from counter`); n != int(others.done.Load()) {
		t.Errorf("n = %d after %d Execs that succeeded", n, others.done.Load())
	}
	noTrace(t, db)
}
