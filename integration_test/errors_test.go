package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A statement error that fn swallows is told, with the server's words: the first
// one, but not one that fn has gone back from, to a savepoint of its own.
func TestSwallowedErrorIsTold(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, `create table u (n int unique)`)
	for name, statements := range map[string][]string{
		"first": {`insert into u values (1)`, `insert into u values (1)`, `select 1/0`},
		"not one that fn went back from": {`savepoint mine`, `select 1/0`, `rollback to savepoint mine`,
			`insert into u values (1)`, `insert into u values (1)`},
	} {
		t.Run(name, func(t *testing.T) {
			err := xactlock.New(db).WithTx(t.Context(), hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
				for _, statement := range statements {
					_, _ = tx.ExecContext(ctx, statement)
				}
				return nil
			})
			var server *pgconn.PgError
			if !errors.As(err, &server) || server.Code != "23505" {
				t.Errorf("got %v, want one that is the duplicate key", err)
			}
		})
	}
}

// An error of a call whose ctx has ended is ctx's, with its cause, also where
// the server was the first to notice.
func TestCauseIsTold(t *testing.T) {
	t.Parallel()
	cause := errors.New("the cause")
	db := newDB(t)
	exec(t, db, `create table t (n int)`)
	h := hold(t, xactlock.New(db), hashkey.Name("k"))
	for name, o := range paths {
		l := xactlock.New(db).With(o)
		for call, wait := range map[string]func(context.Context) error{
			"WithTx": func(ctx context.Context) error { return l.WithTx(ctx, hashkey.Name("k"), unreachable(t)) },
			"Exec": func(ctx context.Context) error {
				_, err := l.Exec(ctx, hashkey.Name("k"), `insert into t values (1)`)
				return err
			},
			"Lock": func(ctx context.Context) error {
				return inTx(db, func(tx *sql.Tx) error { return l.Lock(ctx, tx, hashkey.Name("k")) })
			},
		} {
			t.Run(name+"/"+call, func(t *testing.T) {
				for i := range stress(60) {
					ctx, cancel := context.WithDeadlineCause(t.Context(), time.Now().Add(time.Duration(3+i%5)*time.Millisecond), cause)
					err := wait(ctx)
					cancel()
					for _, want := range []error{xactlock.ErrNotAcquired, context.DeadlineExceeded, cause} {
						if !errors.Is(err, want) {
							t.Fatalf("got %v, want %v", err, want)
						}
					}
				}
			})
		}
	}
	if err := h.release(); err != nil {
		t.Error(err)
	}
}

// A call that is cancelled during its COMMIT says so, and nothing is lost that it
// said was committed.
func TestCancelledDuringCommit(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(context.Context, *xactlock.Locker) error{
		"Exec": func(ctx context.Context, l *xactlock.Locker) error {
			_, err := l.Exec(ctx, hashkey.Name("k"), `insert into t values ($1)`, 1)
			return err
		},
		"WithTx": func(ctx context.Context, l *xactlock.Locker) error { return l.WithTx(ctx, hashkey.Name("k"), insert) },
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			exec(t, db, `create table t (n int);
				create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(8); return null; end $$;
				create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()`)
			cause := errors.New("the cause")
			ctx, cancel := context.WithCancelCause(t.Context())
			other := openSame(t, db)
			go func() {
				untilOneSleeps(t, other)
				cancel(cause)
			}()
			err := call(ctx, xactlock.New(db))
			for _, want := range []error{context.Canceled, cause} {
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			}
			noTrace(t, other, db)
			if n := rows(t, other); n != 0 && !errors.Is(err, xactlock.ErrCommitUnknown) {
				t.Errorf("%d rows, after %v", n, err)
			}
		})
	}
}
