package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/pgxlock"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// settingsLeft are settings that a session has been given for a lock or a wait.
const settingsLeft = `select coalesce(string_agg(name || ' = ' || setting, ', '), '') from pg_settings, pg_sleep(0.05) where source = 'session' and name not like 'transaction\_%'`

// locksInPool counts the locks of a session in the pool: of the one that was used
// last, as a rule, and if that was left with a lock, nobody else gets it until the
// same session is used again.
const locksInPool = `select count(*) from pg_locks where pid = pg_backend_pid() and granted and` + inThisDatabase

// Waits that are cancelled, that reach their deadline, whose session is terminated
// or whose connection is cut, at any moment, leave nothing behind: no lock, no
// waiter on the server, no connection in use, and no setting on a session of the
// pool. A cut costs a connection, so they are fewer.
func TestEndedWaitsLeaveNothing(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	watcher := openDB(t, dsn)
	p, through := newProxy(t, dsn)
	db := openDB(t, dsn, through)
	db.SetMaxOpenConns(12)
	key := hashkey.Name("k")
	waits, cuts, most := int64(20_000), int64(2_000), 40*time.Minute
	if testing.Short() {
		waits, cuts, most = 200, 2, 2*patience
	}
	bound, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	stop, holding := make(chan struct{}), make(chan error, 1)
	go func() {
		err := error(nil)
		for again := true; again; again = sqlState(err) == adminShutdown { // the holder waits, too
			err = holdAndRelease(bound, sessionlock.New(watcher), key, stop)
		}
		holding <- err
	}()

	var ended, terminated, cut, granted atomic.Int64
	over := func() bool {
		return bound.Err() != nil || ended.Load() >= waits && terminated.Load() >= cuts && cut.Load() >= cuts
	}
	faults := make(chan error, 1)
	go func() {
		defer close(faults)
		for i := 0; !over(); i++ {
			const waiter = `(select pid from pg_locks where not granted and` + inThisDatabase + `order by random() limit 1) one`
			if i%2 == 0 {
				terminated.Add(int64(number(t, watcher, `select count(pg_terminate_backend(pid)) from `+waiter)))
			} else if number(t, watcher, `select count(*) from `+waiter) > 0 {
				cut.Add(int64(p.cutOne()))
			}
			// A pool makes one connection after the other.
			time.Sleep(rand.N(50 * time.Millisecond))
		}
	}()
	calls := append(waitersForAMoment(db, key), pgxWaiterForAMoment(t, dsn, through, key))
	err := parallel(2*len(calls), func(i int) error {
		for !over() {
			ctx, cancel := context.WithCancel(t.Context())
			end := cancel
			if rand.N(2) == 0 {
				ctx, end = context.WithTimeout(ctx, rand.N(10*time.Millisecond))
			}
			timer := time.AfterFunc(rand.N(10*time.Millisecond), cancel)
			switch err := calls[i%len(calls)](ctx); {
			case err == nil:
				granted.Add(1)
			case errors.Is(err, sessionlock.ErrNotAcquired), sqlState(err) == adminShutdown, sqlState(err) == "":
				ended.Add(1)
				var left int
				if err := db.QueryRow(locksInPool).Scan(&left); err == nil && left > 0 { // that session may be cut, too
					t.Errorf("a session in the pool holds %d locks", left)
				}
			case errors.Is(err, ctx.Err()): // an Exec that was granted the lock, and cancelled then
			default:
				t.Errorf("way %d: got %v", i%len(calls), err)
			}
			timer.Stop()
			end()
			cancel()
		}
		return nil
	})
	<-faults
	close(stop)
	if err := errors.Join(err, <-holding, bound.Err()); err != nil {
		t.Error(err)
	}
	t.Logf("%d waits ended, %d sessions were terminated, %d connections cut, %d locks granted",
		ended.Load(), terminated.Load(), cut.Load(), granted.Load())
	becomesFree(t, watcher, key)
	noTrace(t, watcher, db)
	db.SetMaxIdleConns(8)
	_ = parallel(8, func(int) error {
		var left string
		if err := db.QueryRow(settingsLeft).Scan(&left); err != nil || left != "" {
			t.Errorf("a session in the pool has the settings %s, %v", left, err)
		}
		return nil
	})
}

// waitersForAMoment are the ways to wait, each of which lets go of what it is
// granted.
func waitersForAMoment(db *sql.DB, key hashkey.Key) []func(context.Context) error {
	session := sessionlock.New(db)
	locks := func(o sessionlock.Options) func(context.Context) error {
		return func(ctx context.Context) error {
			k, err := session.With(o).Lock(ctx, key)
			if err == nil {
				_ = k.Unlock() // it may be lost
			}
			return err
		}
	}
	l := xactlock.New(db)
	inTx := func(o xactlock.Options) func(context.Context) error {
		return func(ctx context.Context) error { return l.With(o).WithTx(ctx, key, nothing) }
	}
	return []func(context.Context) error{
		locks(sessionlock.Options{}),
		locks(sessionlock.Options{Shareable: true}),
		func(ctx context.Context) error {
			return session.WithSlot(ctx, key, 1, func(context.Context, *sql.Conn) error { return nil })
		},
		inTx(xactlock.Options{}),
		inTx(xactlock.Options{Isolation: sql.LevelSerializable}),
		inTx(xactlock.Options{Isolation: sql.LevelRepeatableRead, Shared: true}),
		inTx(xactlock.Options{Plain: true}),
		inTx(xactlock.Options{Plain: true, Isolation: sql.LevelSerializable}),
		func(ctx context.Context) error { return withTxOf(ctx, db, l, key, nothing) },
		func(ctx context.Context) error { return l.WithSlot(ctx, key, 1, nothing) },
		func(ctx context.Context) error {
			_, err := l.Exec(ctx, key, `select $1::int`, 1)
			return err
		},
	}
}

// pgxWaiterForAMoment is such a way over a pool of pgx's.
func pgxWaiterForAMoment(t *testing.T, dsn string, through func(*pgx.ConnConfig), key hashkey.Key) func(context.Context) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	through(config)
	l := pgxlock.New(openPool(t, config)).With(xactlock.Options{Isolation: sql.LevelSerializable})
	return func(ctx context.Context) error {
		return l.WithTx(ctx, key, func(context.Context, pgx.Tx) error { return nil })
	}
}
