package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// endsOfSessions are the ways in which a holder's session ends.
var endsOfSessions = map[string]struct {
	idle string // idle_in_transaction_session_timeout of the database
	end  func(t *testing.T, watcher *sql.DB, p *proxy, pid int)
}{
	"terminated": {"0", func(t *testing.T, watcher *sql.DB, p *proxy, pid int) {
		exec(t, watcher, `select pg_terminate_backend($1)`, pid)
	}},
	"cut":       {"0", func(t *testing.T, watcher *sql.DB, p *proxy, pid int) { p.cutAll() }},
	"timed out": {"3s", func(t *testing.T, watcher *sql.DB, p *proxy, pid int) {}},
}

// fnAfterTheEnd are what fn does when its session is gone.
var fnAfterTheEnd = map[string]func(*testing.T, context.Context, *sql.Tx){
	"returns":        func(*testing.T, context.Context, *sql.Tx) {},
	"waits":          func(t *testing.T, ctx context.Context, _ *sql.Tx) { isTold(t, ctx) },
	"runs statement": func(t *testing.T, ctx context.Context, tx *sql.Tx) { _, _ = tx.Exec(`select 1`); isTold(t, ctx) },
}

// isTold waits for fn's ctx to end because the lock is lost.
func isTold(t *testing.T, ctx context.Context) {
	const soon = 2*time.Second + 3*time.Second // and what a busy machine needs
	select {
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, xactlock.ErrLost) {
			t.Errorf("fn's ctx ended with %v, want ErrLost", cause)
		}
	case <-time.After(soon):
		t.Errorf("fn's ctx goes on %v after its session", soon)
	}
}

// Rule 3: fn is told when its session is gone, whether a statement runs or not,
// and the call returns ErrLost; nothing is committed. Only where fn returns within
// the second in which a connection breaks off without a word, COMMIT may be
// sent, and the outcome is not known.
func TestHolderIsTold(t *testing.T) {
	t.Parallel()
	for name, ending := range endsOfSessions {
		for fnName, fn := range fnAfterTheEnd {
			for path, o := range paths {
				t.Run(name+"/"+fnName+"/"+path, func(t *testing.T) {
					t.Parallel()
					watcher := newDB(t)
					exec(t, watcher, `create table t (n int)`)
					dsn := dsnOf(t, watcher)
					alterDatabase(t, dsn, "idle_in_transaction_session_timeout", ending.idle)
					p, through := newProxy(t, dsn)
					var event xactlock.Event
					o.Observe = func(e xactlock.Event) { event = e }
					db := openDB(t, dsn, through)
					err := xactlock.New(db).With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
						pid := number(t, tx, `with ran as (insert into t values (1) returning n) select pg_backend_pid() from ran`)
						ending.end(t, watcher, p, pid)
						until(t, "the session is gone", func() bool {
							return number(t, watcher, `select count(*) from pg_stat_activity where pid = $1`, pid) == 0
						})
						fn(t, ctx, tx)
						return nil
					})
					unknown := errors.Is(err, xactlock.ErrCommitUnknown) && event.Outcome == xactlock.Unknown
					mayBe := name == "cut" && fnName == "returns" && !o.Plain
					if lost := errors.Is(err, xactlock.ErrLost) && event.Outcome == xactlock.RolledBack; !lost && !(mayBe && unknown) {
						t.Errorf("got %v, outcome %v, want ErrLost", err, event.Outcome)
					}
					if n := rows(t, watcher); n != 0 {
						t.Errorf("%d rows, want none", n)
					}
					noTrace(t, watcher, db)
				})
			}
		}
	}
}

// A running statement that loses its session fails, and fn is told, also where
// the connection hides its socket (as a meter does) and pgx has to tell.
func TestHolderIsToldUnderAStatement(t *testing.T) {
	t.Parallel()
	for path, o := range paths {
		for _, how := range []string{"terminated", "cut", "terminated, no socket"} {
			if how == "terminated, no socket" && o.Plain {
				continue // there only the socket tells
			}
			t.Run(path+"/"+how, func(t *testing.T) {
				t.Parallel()
				watcher := newDB(t)
				dsn := dsnOf(t, watcher)
				p, through := newProxy(t, dsn)
				db := openDB(t, dsn, through)
				if how == "terminated, no socket" {
					db = openMetered(t, dsn, new(meter))
				}
				var pid int
				err := xactlock.New(db).With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					pid = number(t, tx, `select pg_backend_pid()`)
					go func() {
						until(t, "it sleeps", func() bool {
							return number(t, watcher, `select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'`, pid) == 1
						})
						if how == "cut" {
							p.cutAll()
							return
						}
						terminate(t, watcher, pid)
					}()
					if _, err := tx.Exec(`select pg_sleep(60)`); err == nil {
						t.Error("the statement is executed")
					}
					isTold(t, ctx)
					return nil
				})
				if !errors.Is(err, xactlock.ErrLost) {
					t.Errorf("got %v, want ErrLost", err)
				}
				terminate(t, watcher, pid) // which would sleep on after a cut
			})
		}
	}
}

// A restart of the server is told to all who hold a lock, whether a statement runs
// or not.
func TestHolderIsToldOfARestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	watcher := openDB(t, server.DSN())
	db := openSame(t, watcher)
	restarted := make(chan struct{})
	// hold holds a lock until its ctx ends, under a statement or without.
	hold := func(ctx context.Context, inside func(), statement func() error) error {
		inside()
		if statement != nil && statement() == nil {
			t.Error("the statement is executed")
		}
		<-restarted
		isTold(t, ctx)
		return nil
	}
	const sleep = `select pg_sleep(600)`
	holders := make(map[string]func(inside func(), runs bool) error)
	for path, o := range paths {
		holders[path] = func(inside func(), runs bool) error {
			return xactlock.New(db).With(o).WithTx(t.Context(), hashkey.Name(fmt.Sprint(path, runs)), func(ctx context.Context, tx *sql.Tx) error {
				if !runs {
					return hold(ctx, inside, nil)
				}
				return hold(ctx, inside, func() error { _, err := tx.Exec(sleep); return err })
			})
		}
	}
	for name, shares := range map[string]bool{"session": false, "shareable": true} {
		holders[name] = func(inside func(), runs bool) error {
			o := sessionlock.Options{Shareable: shares}
			return sessionlock.New(db).With(o).WithLock(t.Context(), hashkey.Name(fmt.Sprint(name, runs)), func(ctx context.Context, conn *sql.Conn) error {
				if !runs || shares {
					return hold(ctx, inside, nil)
				}
				return hold(ctx, inside, func() error { _, err := conn.ExecContext(context.Background(), sleep); return err })
			})
		}
	}
	var all, there sync.WaitGroup
	for name, holder := range holders {
		for _, runs := range []bool{false, true} {
			there.Add(1)
			all.Go(func() {
				inside := sync.OnceFunc(there.Done)
				defer inside() // or the test would hang
				if err := holder(inside, runs); !errors.Is(err, xactlock.ErrLost) {
					t.Errorf("%s, a statement runs %t: got %v, want ErrLost", name, runs, err)
				}
			})
		}
	}
	there.Wait()
	restart := sync.OnceFunc(func() { close(restarted) })
	defer restart()
	until(t, "the statements run", func() bool {
		return number(t, watcher, `select count(*) from pg_stat_activity where wait_event = 'PgSleep'`) == len(paths)+1
	})
	server.Restart(t)
	restart()
	all.Wait()
	until(t, "the test's own connections are new", func() bool { return watcher.Ping() == nil })
	noTrace(t, watcher, db)
}
