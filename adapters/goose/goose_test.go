package gooselock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"

	gooselock "github.com/pgadvisory/pgadvisory/adapters/goose"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/locktest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

var key = hashkey.Name("billing/migrations")

// The second migration notes whether the session that works is the one that holds
// the lock. The third one waits for all transactions, those of waiters included.
var migrations = fstest.MapFS{
	"1_orders.sql": {Data: []byte("-- +goose Up\ncreate table orders (customer bigint);\n")},
	"2_locks.sql": {Data: []byte("-- +goose Up\ncreate table locks as select pid from pg_locks\n" +
		"where locktype = 'advisory' and granted and pid = pg_backend_pid();\n")},
	"3_index.sql": {Data: []byte("-- +goose NO TRANSACTION\n-- +goose Up\ncreate index concurrently orders_customer on orders (customer);\n")},
}

// newInstance returns the goose of one instance of a service.
func newInstance(t *testing.T, fs fstest.MapFS, o sessionlock.Options) *goose.Provider {
	t.Helper()
	db := locktest.DB(t)
	l := sessionlock.New(db).With(o)
	p, err := goose.NewProvider(goose.DialectPostgres, db, fs, goose.WithSessionLocker(gooselock.NewSessionLocker(l, key)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Of three instances that start at once, one migrates, on the session that holds
// the lock. The others wait for it, and are in nobody's way.
func TestInstancesAtOnce(t *testing.T) {
	db, url := locktest.DB(t), locktest.URL(t)
	results := make([]int, 3)
	var group sync.WaitGroup
	for i := range results {
		p := newInstance(t, migrations, sessionlock.Options{})
		group.Go(func() {
			done, err := p.Up(t.Context())
			if err != nil {
				t.Error(err)
			}
			results[i] = len(done)
		})
	}
	group.Wait()
	if sum := results[0] + results[1] + results[2]; sum != len(migrations) || max(results[0], results[1], results[2]) != sum {
		t.Errorf("the instances have applied %v migrations", results)
	}
	var holders int
	if err := db.QueryRow(`select count(*) from locks`).Scan(&holders); err != nil || holders != 1 {
		t.Errorf("the session that migrated held %d locks (error %v)", holders, err)
	}
	locktest.Hold(t, url, key)() // which is free
}

// An instance that does not get the lock in time migrates nothing.
func TestBusy(t *testing.T) {
	release := locktest.Hold(t, locktest.URL(t), key)
	p := newInstance(t, migrations, sessionlock.Options{Wait: 50 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := p.Up(ctx); !errors.Is(err, sessionlock.ErrNotAcquired) || ctx.Err() != nil {
		t.Errorf("error is %v, want ErrNotAcquired before ctx ends (%v)", err, ctx.Err())
	}
	release()
	p = newInstance(t, migrations, sessionlock.Options{})
	if done, err := p.Up(t.Context()); err != nil || len(done) != len(migrations) {
		t.Errorf("once the lock is free: %d migrations, error %v", len(done), err)
	}
}

// The lock excludes, whatever the options of the Locker say.
func TestSharedExcludes(t *testing.T) {
	lock, err := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{Shared: true}).Lock(t.Context(), key) // a reader
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	p := newInstance(t, migrations, sessionlock.Options{Shared: true, Wait: 50 * time.Millisecond})
	if _, err := p.Up(t.Context()); !errors.Is(err, sessionlock.ErrNotAcquired) {
		t.Errorf("error is %v, want ErrNotAcquired", err)
	}
}

// A migration whose session ends, ends.
func TestLost(t *testing.T) {
	p := newInstance(t, fstest.MapFS{
		"1_end.sql": {Data: []byte("-- +goose Up\nselect pg_terminate_backend(pg_backend_pid());\n")},
	}, sessionlock.Options{})
	if _, err := p.Up(t.Context()); !errors.Is(err, sessionlock.ErrLost) {
		t.Errorf("error is %v, want ErrLost", err)
	}
	locktest.Hold(t, locktest.URL(t), key)() // which is free
}

// An unlock without a lock is an error, not a success.
func TestUnlockWithoutLock(t *testing.T) {
	db := locktest.DB(t)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := gooselock.NewSessionLocker(sessionlock.New(db), key).SessionUnlock(t.Context(), conn); err == nil {
		t.Error("no error")
	}
}
