package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// otherDrivers are the drivers that are not pgx.
var otherDrivers = map[string]func(t *testing.T, dsn string) *sql.DB{"lib/pq": openPq, "pgdriver": openPgdriver}

// However a driver tells its errors, the call tells what has become of fn's
// transaction.
func TestEndingsOnOtherDrivers(t *testing.T) {
	for driver, open := range otherDrivers {
		for text, test := range map[string]struct {
			want    error            // nil: none of the sentinels
			outcome xactlock.Outcome // of the call
		}{
			`rollback`: {xactlock.ErrTxEnded, xactlock.Unknown},
			`commit`:   {xactlock.ErrTxEnded, xactlock.Unknown},
			`rollback; begin; insert into t values (1)`:     {xactlock.ErrTxEnded, xactlock.Unknown},
			`rollback; insert into t values (1)`:            {xactlock.ErrTxEnded, xactlock.Unknown},
			`insert into t values (77)`:                     {nil, xactlock.Failed}, // at COMMIT
			`select 1/0`:                                    {nil, xactlock.RolledBack},
			`select pg_terminate_backend(pg_backend_pid())`: {xactlock.ErrLost, xactlock.RolledBack},
		} {
			t.Run(driver+"/"+text, func(t *testing.T) {
				dsn := pgtest.New(t).Scratch(t)
				watcher, db := openPgx(t, dsn), open(t, dsn)
				exec(t, watcher, `create table parent (id int primary key)`)
				exec(t, watcher, `create table t (n int references parent deferrable initially deferred)`)
				exec(t, watcher, `insert into parent values (1)`)
				var event xactlock.Event
				l := xactlock.New(db).With(xactlock.Options{Observe: func(e xactlock.Event) { event = e }})
				err := l.WithTx(t.Context(), key, func(ctx context.Context, tx *sql.Tx) error {
					_, _ = tx.ExecContext(ctx, text)
					return nil
				})
				if err == nil || test.want != nil && !errors.Is(err, test.want) || event.Outcome != test.outcome {
					t.Errorf("got %v, outcome %v; want %v, %v", err, event.Outcome, test.want, test.outcome)
				}
				if test.want == nil && (errors.Is(err, xactlock.ErrCommitUnknown) || errors.Is(err, xactlock.ErrLost) || errors.Is(err, xactlock.ErrTxEnded)) {
					t.Errorf("got %v, want an error that says nothing is committed", err)
				}
				if err := l.WithTx(t.Context(), key, func(context.Context, *sql.Tx) error { return nil }); err != nil {
					t.Errorf("the next call: %v", err)
				}
			})
		}
	}
}

// An Exec in three messages whose ctx ends under its statement has ctx's error and
// cause, however the driver tells that the statement was cancelled.
func TestExecEndsWithContext(t *testing.T) {
	cause := errors.New("shutting down")
	for name, test := range map[string]struct {
		open    func(t *testing.T, dsn string) *sql.DB
		options xactlock.Options
	}{
		"lib/pq":            {open: openPq},
		"opaque pgx":        {open: openOpaque},
		"pgx, plain":        {open: openPgx, options: xactlock.Options{Plain: true}},
		"pgx, serializable": {open: openPgx, options: xactlock.Options{Isolation: sql.LevelSerializable}},
	} {
		for _, why := range []error{context.Canceled, context.DeadlineExceeded} {
			t.Run(name+"/"+why.Error(), func(t *testing.T) {
				dsn := pgtest.New(t).Scratch(t)
				watcher, db := openPgx(t, dsn), test.open(t, dsn)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if why == context.DeadlineExceeded {
					var end context.CancelFunc
					ctx, end = context.WithTimeoutCause(ctx, time.Second, cause)
					defer end()
				}
				done := make(chan error, 1)
				go func() {
					_, err := xactlock.New(db).With(test.options).Exec(ctx, key, `select pg_sleep(3600)`)
					done <- err
				}()
				if why == context.Canceled {
					until(t, "the statement sleeps", func() bool {
						return number(t, watcher, `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`) == 1
					})
					cancel(cause)
				}
				if err := <-done; !errors.Is(err, why) || !errors.Is(err, cause) {
					t.Errorf("got %v, want %v and its cause", err, why)
				}
			})
		}
	}
}

// On pgx, the plain path is there for those who ask for both.
func TestRequirePgxWithPlain(t *testing.T) {
	db := openPgx(t, pgtest.New(t).Scratch(t))
	err := xactlock.New(db).With(xactlock.Options{RequirePgx: true, Plain: true}).WithTx(t.Context(), key, func(context.Context, *sql.Tx) error {
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
