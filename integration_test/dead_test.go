package integration_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Connections that have died in the pool, as all do when the server restarts,
// are no failure of the call that finds them there, be they ten. pgx does not
// find them first: it looks only at those that were idle for a while, and here
// at none.
func TestDeadInPool(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	db, watcher := openMetered(t, dsn, new(meter)), openDB(t, dsn)
	key := hashkey.Name("dead")
	session := func(o sessionlock.Options) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			return sessionlock.New(db).With(o).TryWithLock(ctx, key, func(context.Context, *sql.Conn) error { return nil })
		}
	}
	for name, call := range map[string]func(ctx context.Context) error{
		"sessionlock":           session(sessionlock.Options{}),
		"sessionlock shareable": session(sessionlock.Options{Shareable: true}),
		"xactlock":              func(ctx context.Context) error { return xactlock.New(db).TryWithTx(ctx, key, nothing) },
		"xactlock plain": func(ctx context.Context) error {
			return xactlock.New(db).With(xactlock.Options{Plain: true}).TryWithTx(ctx, key, nothing)
		},
	} {
		const idle = 10
		warm(t, db, idle)
		n := number(t, watcher, `select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`)
		if n < idle {
			t.Fatalf("%d sessions were there, want %d", n, idle)
		}
		if err := call(bounded(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	noTrace(t, db, watcher)
}
