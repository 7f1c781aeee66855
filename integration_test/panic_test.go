package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// panickingStatements are the ways to a panic inside a statement of fn.
var panickingStatements = map[string]func(ctx context.Context, tx *sql.Tx) error{
	"Exec": func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `select $1::text`, &counted{panics: true})
		return err
	},
	"Query": func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.QueryContext(ctx, `select $1::text`, &counted{panics: true})
		return err
	},
	"prepared Exec": func(ctx context.Context, tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, `select $1::text`)
		if err == nil {
			_, err = stmt.ExecContext(ctx, &counted{panics: true})
		}
		return err
	},
	"prepared Query": func(ctx context.Context, tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, `select $1::text`)
		if err == nil {
			_, err = stmt.QueryContext(ctx, &counted{panics: true})
		}
		return err
	},
	"Scan": func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `select generate_series(1, 3)`)
		if err == nil && rows.Next() {
			err = rows.Scan(panickingScanner{})
		}
		return err
	},
}

type panickingScanner struct{}

func (panickingScanner) Scan(any) error { panic("in Scan") }

// returned runs call, which may hang or panic, and returns its error and panic.
func returned(t *testing.T, call func() error) (panicked any, err error) {
	t.Helper()
	type end struct {
		err      error
		panicked any
	}
	ended := make(chan end, 1)
	go func() {
		var e end
		defer func() {
			e.panicked = recover()
			ended <- e
		}()
		e.err = call()
	}()
	select {
	case e := <-ended:
		return e.panicked, e.err
	case <-time.After(patience):
		t.Fatal("the call hangs")
		return nil, nil
	}
}

// A panic inside a statement reaches the caller, frees the lock and leaves the
// pool usable. What it leaves of database/sql's locks holds nothing up, also if
// fn recovers it, and then returns an error or nil.
func TestPanicInsideAStatement(t *testing.T) {
	t.Parallel()
	for name, statement := range panickingStatements {
		for _, end := range []string{"panic", "error", "nil"} {
			for _, plain := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/plain %t", name, end, plain), func(t *testing.T) {
					t.Parallel()
					db := newDB(t)
					exec(t, db, `create table t (n int)`)
					if plain {
						db = openSameUnchecked(t, db) // database/sql loses a connection there
					}
					l := xactlock.New(db).With(xactlock.Options{Plain: plain})
					panicked, err := returned(t, func() error {
						return l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) (err error) {
							defer func() {
								if end != "panic" && recover() != nil && end == "error" {
									err = errExpected
								}
							}()
							if err := insert(ctx, tx); err != nil {
								return err
							}
							return statement(ctx, tx)
						})
					})
					switch {
					case end == "panic" && panicked != "in Value" && panicked != "in Scan":
						t.Errorf("the panic is %v, the error %v", panicked, err)
					case end == "error" && !errors.Is(err, errExpected):
						t.Errorf("got %v, want fn's error", err)
					case end == "nil" && errors.Is(err, xactlock.ErrCommitUnknown):
						t.Errorf("got %v, and no COMMIT was sent", err)
					}
					committed := 0
					if end == "nil" && err == nil {
						committed = 1
					}
					_, err = returned(t, func() error { return l.TryWithTx(t.Context(), hashkey.Name("k"), nothing) })
					if err != nil {
						t.Errorf("the next call: %v", err)
					}
					if n := rows(t, db); n != committed {
						t.Errorf("%d rows, want %d", n, committed)
					}
				})
			}
		}
	}
}

// A RawBytes of rows that fn leaves open keeps a lock of database/sql's taken.
// The call ends all the same, and says what became of it.
func TestRawBytesLeftOpen(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprintf("plain %t/fails %t", plain, fails), func(t *testing.T) {
				t.Parallel()
				db := newDB(t)
				exec(t, db, `create table t (n int)`)
				if plain {
					db = openSameUnchecked(t, db)
				}
				l := xactlock.New(db).With(xactlock.Options{Plain: plain})
				_, err := returned(t, func() error {
					return l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
						if err := insert(ctx, tx); err != nil {
							return err
						}
						open, err := tx.QueryContext(ctx, `select repeat('x', 1000) from generate_series(1, 5000)`)
						if err != nil {
							return err
						}
						var raw sql.RawBytes
						if open.Next() {
							err = open.Scan(&raw)
						}
						if fails {
							err = errExpected
						}
						return err
					})
				})
				if fails != errors.Is(err, errExpected) || errors.Is(err, xactlock.ErrCommitUnknown) {
					t.Errorf("got %v", err)
				}
				committed := 0
				if err == nil {
					committed = 1
				}
				if _, err := returned(t, func() error { return l.TryWithTx(t.Context(), hashkey.Name("k"), nothing) }); err != nil {
					t.Errorf("the next call: %v", err)
				}
				if n := rows(t, db); n != committed {
					t.Errorf("%d rows, want %d", n, committed)
				}
			})
		}
	}
}

// openSameUnchecked is openSame, without a look at the pool at the end.
func openSameUnchecked(t *testing.T, db *sql.DB) *sql.DB {
	t.Helper()
	same, err := sql.Open("pgx", dsnOf(t, db))
	if err != nil {
		t.Fatal(err)
	}
	same.SetMaxOpenConns(5)
	t.Cleanup(func() { same.Close() })
	return same
}

// After a panic inside a statement, the end of its ctx reaches no statement that
// uses the connection later.
func TestPanicLeavesNoInterrupt(t *testing.T) {
	t.Parallel()
	for name, statement := range panickingStatements {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			db.SetMaxOpenConns(1)
			l := xactlock.New(db)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, _ = returned(t, func() error {
				return l.WithTx(t.Context(), hashkey.Name("k"), func(_ context.Context, tx *sql.Tx) error { return statement(ctx, tx) })
			})
			keepsConnection(t, db, func() {
				stop := time.AfterFunc(100*time.Millisecond, cancel)
				defer stop.Stop()
				exec(t, db, `select pg_sleep(0.4)`)
			})
		})
	}
}

// panicsInside is what the stack trace of a panic must show.
//
//go:noinline
func panicsInside(context.Context, *sql.Tx) error { panic("inside fn") }

// A panic of fn reaches the caller with fn's frames, and costs no connection.
func TestPanicKeepsItsFrames(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		db.SetMaxOpenConns(1)
		for name, call := range calls(l) {
			keepsConnection(t, db, func() {
				defer func() {
					if value := recover(); value != "inside fn" {
						t.Errorf("%s: the panic is %v", name, value)
					}
					if stack := string(debug.Stack()); !strings.Contains(stack, "panicsInside") {
						t.Errorf("%s: the stack trace does not show fn:\n%s", name, stack)
					}
				}()
				err := call(t.Context(), panicsInside)
				t.Errorf("%s: no panic, but %v", name, err)
			})
		}
		db.SetMaxOpenConns(20)
	})
}

// A call that a hook of the pool ends, by a panic or runtime.Goexit, is told as
// failed, and is in nobody's way: the next call for the key has the lock.
func TestSessionHookEndsTheCall(t *testing.T) {
	t.Parallel()
	dsn := dsnOf(t, newDB(t))
	for way, end := range map[string]func(){"panic": func() { panic(errExpected) }, "Goexit": runtime.Goexit} {
		for name, o := range map[string]sessionlock.Options{"own session": {}, "Shareable": {Shareable: true}} {
			t.Run(way+"/"+name, func(t *testing.T) {
				t.Parallel()
				config, err := pgx.ParseConfig(dsn)
				if err != nil {
					t.Fatal(err)
				}
				var connects atomic.Int64
				db := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(func(context.Context, *pgx.ConnConfig) error {
					if connects.Add(1) == 1 {
						end()
					}
					return nil
				}))
				t.Cleanup(func() { _ = db.Close() })
				var told []sessionlock.Event
				o.Observe = func(e sessionlock.Event) { told = append(told, e) }
				l, key := sessionlock.New(db).With(o), hashkey.Name(t.Name())
				panicked := make(chan any)
				go func() {
					defer func() { panicked <- recover() }()
					_, err := l.Lock(t.Context(), key)
					t.Errorf("the call has returned %v", err)
				}()
				if value := <-panicked; way == "panic" && value != errExpected || way == "Goexit" && value != nil {
					t.Errorf("recovered %v", value)
				}
				if len(told) != 2 || told[1].Kind != sessionlock.Failed || told[1].Err != nil || told[1].Waited <= 0 {
					t.Errorf("told %+v", told)
				}
				k, err := l.Lock(bounded(t), key)
				if err != nil {
					t.Fatal(err)
				}
				unlock(t, k)
			})
		}
	}
}
