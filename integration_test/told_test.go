package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
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
	"timed out": {"200ms", func(t *testing.T, watcher *sql.DB, p *proxy, pid int) {}},
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

// Rule 4: fn is told when its session is gone, whether a statement runs or not,
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
		for _, hides := range []bool{false, true} {
			if hides && o.Plain {
				continue // there only the socket tells
			}
			t.Run(fmt.Sprintf("%s/hides %t", path, hides), func(t *testing.T) {
				t.Parallel()
				watcher := newDB(t)
				db := openSame(t, watcher)
				if hides {
					db = openMetered(t, dsnOf(t, watcher), new(meter))
				}
				err := xactlock.New(db).With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					pid := number(t, tx, `select pg_backend_pid()`)
					go func() {
						until(t, "it sleeps", func() bool {
							return number(t, watcher, `select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'`, pid) == 1
						})
						exec(t, watcher, `select pg_terminate_backend($1)`, pid)
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
			})
		}
	}
}

// An fn that stops within Grace of its ctx's end is never overlapped. One that
// ignores its ctx is, after MaxHold and Grace, and its call returns ErrLost.
func TestGrace(t *testing.T) {
	t.Parallel()
	const maxHold, grace = 200 * time.Millisecond, 1500 * time.Millisecond
	for _, obeys := range []bool{true, false} {
		name := "ignores"
		if obeys {
			name = "obeys"
		}
		t.Run(name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				o := l.Options()
				o.MaxHold, o.Grace = maxHold, grace
				inside, over := make(chan struct{}), make(chan struct{})
				var left time.Time
				ended := make(chan error, 1)
				go func() {
					ended <- l.With(o).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
						close(inside)
						<-ctx.Done()
						if obeys {
							time.Sleep(100 * time.Millisecond)
						} else {
							<-over
						}
						left = time.Now()
						return nil
					})
				}()
				<-inside
				began := time.Now()
				next := xactlock.New(openSame(t, db))
				if err := next.WithTx(t.Context(), hashkey.Name("k"), nothing); err != nil {
					t.Error(err)
				}
				entered := time.Now()
				close(over)
				err := <-ended
				switch {
				case obeys && (!errors.Is(err, context.DeadlineExceeded) || errors.Is(err, xactlock.ErrLost) || entered.Before(left)):
					t.Errorf("got %v; the next holder came %v after fn had left", err, entered.Sub(left))
				case !obeys && (!errors.Is(err, xactlock.ErrLost) || entered.Sub(began) < maxHold+grace-100*time.Millisecond):
					t.Errorf("got %v; the next holder came %v after fn had begun", err, entered.Sub(began))
				}
			})
		})
	}
}
