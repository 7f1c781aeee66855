package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// paths are the two ways a call goes: on pgx's connection, and through
// database/sql alone.
var paths = map[string]xactlock.Options{
	"adopted":              {},
	"adopted serializable": {Isolation: sql.LevelSerializable},
	"plain":                {Plain: true},
	"plain serializable":   {Plain: true, Isolation: sql.LevelSerializable},
}

// onEachPath runs a test on each path, with a pool of its own on a database
// with an empty table t (n int).
func onEachPath(t *testing.T, test func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker)) {
	for name, o := range paths {
		t.Run(name, func(t *testing.T) {
			m := new(meter)
			db := openMetered(t, newDatabase(t), m)
			exec(t, db, `create table t (n int)`)
			test(t, db, m, xactlock.New(db).With(o))
			noTrace(t, db)
		})
	}
}

// insert is an fn that writes one row.
func insert(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `insert into t values (1)`)
	return err
}

func rows(tb testing.TB, db *sql.DB) int {
	tb.Helper()
	return number(tb, db, `select count(*) from t`)
}

// Rule 2: the transaction is WithTx's to end.
func TestCommitInsideFn(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		var committed error
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			if err := insert(ctx, tx); err != nil {
				return err
			}
			committed = tx.Commit()
			return nil
		})
		if !errors.Is(err, xactlock.ErrTxEnded) || !strings.Contains(err.Error(), `"k"`) || !strings.Contains(err.Error(), "fn called tx.Commit") {
			t.Errorf("got %v, want ErrTxEnded with the key and what fn did", err)
		}
		if isPlain(t) {
			return // there it can only be noticed
		}
		if committed == nil || committed.Error() != err.Error() || !errors.Is(committed, xactlock.ErrTxEnded) {
			t.Errorf("tx.Commit() = %v, want what the call returns", committed)
		}
		if n := rows(t, db); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	})
}

// isPlain reports whether a test of onEachPath is on the plain path.
func isPlain(t *testing.T) bool { return paths[pathOf(t)].Plain }

// pathOf returns the name in paths of a test of onEachPath.
func pathOf(t *testing.T) string {
	name := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	return strings.ReplaceAll(name, "_", " ")
}

// Rule 2: neither may fn roll back, and SQL text that ends the transaction is
// noticed, also where it begins another one at once.
func TestOtherEndsInsideFn(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(tx *sql.Tx) error{
		"Rollback":           func(tx *sql.Tx) error { return tx.Rollback() },
		"commit":             endBy(`commit`),
		"rollback":           endBy(`rollback`),
		"query":              func(tx *sql.Tx) error { _, err := tx.Query(`rollback`); return err },
		"commit and chain":   endBy(`commit and chain`),
		"rollback AND CHAIN": endBy(`rollback AND CHAIN`),
		"commit; begin":      endBy(`commit; begin`),
		"end; start":         endBy(`end; START transaction`),
		"abort; begin":       endBy(`abort; begin; select 1`),
		"behind a comment":   endBy(`/* select */ commit and chain`),
		"behind a select":    endBy(`select 1; commit; begin`),
		"rewritten":          func(tx *sql.Tx) error { _, err := tx.Exec(`select 1`, intoAnother{}); return err },
		"in a statement":     endByStatement(`commit and chain`),
	} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
				err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
					return end(tx)
				})
				if !errors.Is(err, xactlock.ErrTxEnded) || !strings.Contains(err.Error(), `"k"`) {
					t.Fatalf("got %v, want ErrTxEnded with the key", err)
				}
				if says := "a statement has"; name != "Rollback" && !strings.Contains(err.Error(), says) {
					t.Errorf("got %v, which does not say %q", err, says)
				}
			})
		})
	}
}

// endByStatement prepares text, and executes it.
func endByStatement(text string) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		st, err := tx.Prepare(text)
		if err != nil {
			return err
		}
		_, err = st.Exec()
		return err
	}
}

// intoAnother has pgx commit and begin another transaction in place of what was
// asked for.
type intoAnother struct{}

func (intoAnother) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return "commit and chain", nil, nil
}

func endBy(text string) func(*sql.Tx) error {
	return func(tx *sql.Tx) error { _, err := tx.Exec(text); return err }
}

// Rule 1, the other way round: once the lock is gone, fn's statements are
// refused rather than run without it.
func TestNoStatementWithoutTheLock(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	err := xactlock.New(db).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.Exec(`commit`); err != nil {
			return err
		}
		if err := insert(ctx, tx); !errors.Is(err, xactlock.ErrTxEnded) {
			t.Errorf("insert after commit: %v, want ErrTxEnded", err)
		}
		return nil
	})
	if !errors.Is(err, xactlock.ErrTxEnded) {
		t.Errorf("got %v, want ErrTxEnded", err)
	}
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows, want none", n)
	}
}

// Text that looks as if it could begin another transaction, and does not.
func TestSuspectTextCommits(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	for _, key := range []hashkey.Key{hashkey.Name("k"), hashkey.Int64(-1), hashkey.Pair(-1, 1)} {
		err := xactlock.New(db).WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.Exec(`do $$ begin insert into t values (1); end $$`)
			return err
		})
		if err != nil {
			t.Errorf("%v: %v", key, err)
		}
	}
	if n := rows(t, db); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
}

// The server can refuse to commit; the reason reaches the caller.
func TestRefusedCommit(t *testing.T) {
	t.Parallel()
	onEachPath(t, func(t *testing.T, db *sql.DB, m *meter, l *xactlock.Locker) {
		exec(t, db, `create table once (n int unique deferrable initially deferred)`)
		err := l.WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `insert into once values (1), (1)`)
			return err
		})
		const uniqueViolation = "23505"
		if code := sqlState(err); code != uniqueViolation || errors.Is(err, xactlock.ErrCommitUnknown) {
			t.Errorf("got %v, want SQLSTATE %s", err, uniqueViolation)
		}
	})
}

func sqlState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// What fn has committed through database/sql is not called rolled back, whatever
// else happens.
func TestCommittedInsideFn(t *testing.T) {
	t.Parallel()
	watcher := newDB(t)
	exec(t, watcher, `create table t (n int)`)
	var e xactlock.Event
	calls := map[string]func(ctx context.Context, db *sql.DB, l *xactlock.Locker, fn xactlock.Func) error{
		"plain": func(ctx context.Context, _ *sql.DB, l *xactlock.Locker, fn xactlock.Func) error {
			return l.WithTx(ctx, hashkey.Name("k"), fn)
		},
		"WithTxOf": func(ctx context.Context, db *sql.DB, l *xactlock.Locker, fn xactlock.Func) error {
			return withTxOf(ctx, db, l, hashkey.Name("k"), fn)
		},
	}
	commits := map[string]func(*sql.Tx) error{"Commit": (*sql.Tx).Commit, "text": endBy(`commit`)}
	endings := map[string]func(ctx context.Context, pid int, cancel func()) error{
		"error": func(context.Context, int, func()) error { return errExpected },
		"ctx":   func(_ context.Context, _ int, cancel func()) error { cancel(); return nil },
		"panic": func(context.Context, int, func()) error { panic(errExpected) },
		"loss": func(ctx context.Context, pid int, _ func()) error {
			exec(t, watcher, `select pg_terminate_backend($1, 10000)`, pid)
			<-ctx.Done()
			return nil
		},
	}
	for path, call := range calls {
		db := openSame(t, watcher)
		l := xactlock.New(db).With(xactlock.Options{Plain: true, Observe: func(x xactlock.Event) { e = x }})
		for how, commit := range commits {
			for name, end := range endings {
				if path == "WithTxOf" && name == "loss" {
					continue // it does not know the session
				}
				exec(t, watcher, `truncate t`)
				ctx, cancel := context.WithCancel(t.Context())
				panicked, err := returned(t, func() error {
					return call(ctx, db, l, func(ctx context.Context, tx *sql.Tx) error {
						pid := number(t, tx, `select pg_backend_pid()`)
						if err := errors.Join(insert(ctx, tx), commit(tx)); err != nil {
							return err
						}
						return end(ctx, pid, cancel)
					})
				})
				cancel()
				why := map[string]error{"error": errExpected, "ctx": context.Canceled}[name]
				switch {
				case name == "panic" && panicked != errExpected:
					t.Errorf("%s, %s, %s: the panic is %v, the error %v", path, how, name, panicked, err)
				case name != "panic" && !errors.Is(err, xactlock.ErrTxEnded), why != nil && !errors.Is(err, why), errors.Is(err, xactlock.ErrLost):
					t.Errorf("%s, %s, %s: got %v, want ErrTxEnded, %v", path, how, name, err, why)
				}
				if n := rows(t, watcher); n != 1 || e.Outcome != xactlock.Unknown {
					t.Errorf("%s, %s, %s: %d rows, outcome %v", path, how, name, n, e.Outcome)
				}
				noTrace(t, watcher, db)
			}
		}
	}
}
