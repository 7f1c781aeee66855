package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"testing"

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
