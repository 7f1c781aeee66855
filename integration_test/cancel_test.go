package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// A cancel request that is under way for long, for a statement which is
// answered meanwhile, hits nothing that comes after.
func TestLateCancelRequest(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	p, through := newProxy(t, dsnOf(t, db), func(p *proxy) { p.cancels = make(chan *heldCancel) })
	pool := openDB(t, dsnOf(t, db), through)
	pool.SetMaxOpenConns(1)
	holder := hold(t, xactlock.New(db), hashkey.Name("other"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- xactlock.New(pool).WithTx(ctx, hashkey.Name("k"), func(ctx context.Context, tx *sql.Tx) error {
			return xactlock.New(pool).Lock(ctx, tx, hashkey.Name("other"))
		})
	}()
	until(t, "fn waits", func() bool { return waitingLocks(t, db) == 1 })
	cancel()
	late := received(t, "the wait is cancelled", p.cancels)
	if err := errors.Join(holder.release(), expect(context.Canceled, <-done)); err != nil {
		t.Error(err)
	}
	next := make(chan error, 1)
	go func() { _, err := pool.Exec(`select pg_advisory_lock(1); select pg_sleep(0.2)`); next <- err }()
	until(t, "the next statement runs", func() bool { return heldLocks(t, db) == 1 })
	late.let()
	if err := <-next; err != nil {
		t.Errorf("the next statement: %v", err)
	}
	if _, err := pool.Exec(`select pg_advisory_unlock(1)`); err != nil {
		t.Error(err)
	}
	noTrace(t, db, pool)
}
