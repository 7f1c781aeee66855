package integration_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// PgBouncer 1.18 and 1.19.0 crash, and with them the connections of all their
// clients, where the client of a cancel request hangs up before the server does.
// No call hangs up, also when its session is gone meanwhile, and there is nothing
// left to be cancelled.
func TestPoolerOutlivesCancelRequests(t *testing.T) {
	key := hashkey.Name("k")
	for name, test := range map[string]struct {
		options []func(*pgx.ConnConfig)
		call    func(ctx context.Context, db *sql.DB) error
		running string // the statement that is to be cancelled
	}{
		"a wait whose session ends": {
			call: func(ctx context.Context, db *sql.DB) error {
				return xactlock.New(db).WithTx(ctx, key, func(context.Context, *sql.Tx) error { return nil })
			},
			running: `select pid from pg_locks where not granted and` + inThisDatabase,
		},
		"a statement of fn whose session ends": {
			call: func(ctx context.Context, db *sql.DB) error {
				return xactlock.New(db).WithTx(ctx, hashkey.Name("free"), func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, `select pg_sleep(60)`)
					return err
				})
			},
			running: `select pid from pg_stat_activity where query = 'select pg_sleep(60)' and datname = current_database()`,
		},
		"a statement over CancelStatements whose session ends": {
			options: []func(*pgx.ConnConfig){sessionlock.CancelStatements},
			call: func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, `select pg_sleep(60)`)
				return err
			},
			running: `select pid from pg_stat_activity where query = 'select pg_sleep(60)' and datname = current_database()`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			other := openDB(t, dsn)
			h := hold(t, xactlock.New(other), key)
			p, through := newProxy(t, dsn, func(p *proxy) { p.cancels = make(chan *heldCancel) })
			pooled := pgtest.Bouncer(t, rerouted(t, dsn, through), "transaction")
			db, stranger := openDB(t, pooled, test.options...), openDB(t, pooled)
			exec(t, stranger, `select 1`)

			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- test.call(ctx, db) }()
			var pid int
			until(t, "the statement runs", func() bool { return other.QueryRow(test.running).Scan(&pid) == nil })
			cancel()
			request := received(t, "the statement is cancelled", p.cancels) // PgBouncer has sent it on, and it is slow to arrive
			exec(t, other, `select pg_terminate_backend($1)`, pid)
			if err := <-ended; err == nil {
				t.Error("the call succeeded")
			}
			request.let()
			for range 20 {
				exec(t, stranger, `select 1`) // by then PgBouncer has dealt with the answer
			}
			if err := h.release(); err != nil {
				t.Error(err)
			}
		})
	}
}
