package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/acquire"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// Rule 5: of all who want one key, one waits on the server, and the others
// hold no connection. A lock that nobody else wants is had at once.
func TestHotKeyLeavesThePoolAlone(t *testing.T) {
	t.Parallel()
	for name, o := range paths {
		t.Run(name, func(t *testing.T) {
			const callers, poolSize = 300, 12
			db := newDB(t)
			watcher := openSame(t, db)
			db.SetMaxOpenConns(poolSize)
			l := xactlock.New(db).With(o)
			h := hold(t, xactlock.New(watcher), hashkey.Name("hot"))

			var called atomic.Int64
			done := make(chan error, 1)
			go func() {
				done <- parallel(callers, func(int) error {
					called.Add(1)
					return l.WithTx(t.Context(), hashkey.Name("hot"), nothing)
				})
			}()
			until(t, "everybody has called", func() bool { return called.Load() == callers })
			until(t, "one waits on the server", func() bool { return waitingLocks(t, watcher) == 1 })
			until(t, "the others hold no connection", func() bool { return db.Stats().InUse == 1 })
			waits := db.Stats().WaitCount
			for i := range 20 {
				if err := l.WithTx(t.Context(), hashkey.Int64(int64(i)), nothing); err != nil {
					t.Error(err)
				}
			}
			if n := db.Stats().WaitCount - waits; n != 0 {
				t.Errorf("%d of 20 uncontended calls had to wait for a connection", n)
			}
			if err := h.release(); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			noTrace(t, watcher, db)
		})
	}
}

// Rule 5: MaxWaiters is how many wait on the server for one key.
func TestMaxWaiters(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	watcher := openSame(t, db)
	h := hold(t, xactlock.New(watcher), hashkey.Name("hot"))
	l := xactlock.New(db).With(xactlock.Options{MaxWaiters: 3})
	done := make(chan error, 1)
	go func() {
		done <- parallel(30, func(int) error { return l.WithTx(t.Context(), hashkey.Name("hot"), nothing) })
	}()
	until(t, "three wait on the server", func() bool { return waitingLocks(t, watcher) == 3 })
	until(t, "and the others hold no connection", func() bool { return db.Stats().InUse == 3 })
	if err := h.release(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Rule 5: waiters for all keys together hold at most half of the pool.
func TestManyHotKeysLeaveHalfOfThePool(t *testing.T) {
	t.Parallel()
	const keys, poolSize = 12, 12
	db := newDB(t)
	watcher := openSame(t, db)
	db.SetMaxOpenConns(poolSize)
	l := xactlock.New(db)
	var all []hashkey.Key
	for i := range keys {
		all = append(all, hashkey.Namespace("hot").ID(int64(i)))
	}
	inside, leave := make(chan struct{}), make(chan struct{})
	held := make(chan error, 1)
	go func() {
		held <- xactlock.New(watcher).WithTxAll(t.Context(), all, func(context.Context, *sql.Tx) error {
			close(inside)
			<-leave
			return nil
		})
	}()
	<-inside
	done := make(chan error, 1)
	go func() {
		done <- parallel(10*keys, func(i int) error { return l.WithTx(t.Context(), all[i%keys], nothing) })
	}()
	until(t, "half of the pool waits on the server", func() bool { return waitingLocks(t, watcher) >= poolSize/2 })
	for i := range 50 {
		if err := l.WithTx(t.Context(), hashkey.Int64(int64(i)), nothing); err != nil {
			t.Error(err)
		}
		if n := waitingLocks(t, watcher); n > poolSize/2+1 { // and one in overtime
			t.Errorf("%d wait on the server, want at most %d", n, poolSize/2+1)
		}
	}
	close(leave)
	for _, c := range []chan error{held, done} {
		if err := <-c; err != nil {
			t.Error(err)
		}
	}
	noTrace(t, watcher, db)
}

// A call whose key comes free is not held up by those that wait for others.
func TestQuotaHoldsUpNobodyWhoseKeyIsFree(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	watcher := openSame(t, db)
	db.SetMaxOpenConns(4) // so that two may wait
	l := xactlock.New(db)
	h1, h2 := hold(t, xactlock.New(watcher), hashkey.Int64(1)), hold(t, xactlock.New(watcher), hashkey.Int64(2))
	stuck := make(chan error, 2)
	for i := range 2 {
		go func() { stuck <- l.WithTx(t.Context(), hashkey.Int64(int64(i+1)), nothing) }()
	}
	until(t, "both wait on the server", func() bool { return waitingLocks(t, watcher) == 2 })
	h3 := hold(t, xactlock.New(watcher), hashkey.Int64(3))
	third := make(chan error, 1)
	go func() { third <- l.WithTx(t.Context(), hashkey.Int64(3), nothing) }()
	if err := h3.release(); err != nil {
		t.Error(err)
	}
	if err := <-third; err != nil {
		t.Error(err)
	}
	for _, h := range []*holder{h1, h2} {
		if err := h.release(); err != nil {
			t.Error(err)
		}
		if err := <-stuck; err != nil {
			t.Error(err)
		}
	}
}

// Who polls never waits on the server, and holds no connection between two
// questions.
func TestPollNeverWaitsOnTheServer(t *testing.T) {
	t.Parallel()
	for name, o := range paths {
		t.Run(name, func(t *testing.T) {
			var m meter
			db := openMetered(t, newDatabase(t), &m)
			watcher := openSame(t, db)
			h := hold(t, xactlock.New(watcher), hashkey.Name("hot"))
			o.Poll = time.Millisecond
			l := xactlock.New(db).With(o)
			askAndAsk := func(times int64) {
				for asked := m.messages.Load() + 2*times; m.messages.Load() < asked; {
					if n := waitingLocks(t, watcher); n != 0 {
						t.Errorf("%d wait on the server", n)
						return
					}
				}
			}
			var turns atomic.Int64
			done := make(chan error, 1)
			go func() {
				done <- parallel(5, func(int) error {
					return l.WithTx(t.Context(), hashkey.Name("hot"), func(context.Context, *sql.Tx) error {
						if turns.Add(1) < 5 { // there is somebody left to ask
							askAndAsk(10)
						}
						return nil
					})
				})
			}()
			askAndAsk(30)
			until(t, "no connection is in use", func() bool { return db.Stats().InUse == 0 })
			if err := h.release(); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Readers do not queue behind each other.
func TestReadersShare(t *testing.T) {
	t.Parallel()
	for name, o := range paths {
		t.Run(name, func(t *testing.T) {
			const readers = 10
			db := newDB(t)
			o.Shared = true
			l := xactlock.New(db).With(o)
			var inside atomic.Int64
			err := parallel(readers, func(int) error {
				return l.WithTx(t.Context(), hashkey.Name("k"), func(context.Context, *sql.Tx) error {
					inside.Add(1)
					until(t, "all readers are inside at once", func() bool { return inside.Load() == readers })
					return nil
				})
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Who gives up in memory costs nothing and is gone.
func TestGivingUpInMemory(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		t.Run(ending.name, func(t *testing.T) {
			const others = 50
			var m meter
			db := openMetered(t, newDatabase(t), &m)
			watcher := openSame(t, db)
			h := hold(t, xactlock.New(watcher), hashkey.Name("hot"))
			l := xactlock.New(db)
			first := make(chan error, 1)
			go func() { first <- l.WithTx(t.Context(), hashkey.Name("hot"), nothing) }()
			until(t, "one waits on the server", func() bool { return waitingLocks(t, watcher) == 1 })

			messages, began := m.messages.Load(), time.Now()
			var o xactlock.Options
			ctx, cancel := ending.begin(t.Context(), &o)
			defer cancel()
			var called atomic.Int64
			if ending.why == context.Canceled {
				go func() {
					until(t, "all have called", func() bool { return called.Load() == others })
					cancel()
				}()
			}
			_ = parallel(others, func(int) error {
				called.Add(1)
				notAcquired(t, l.With(o).WithTx(ctx, hashkey.Name("hot"), unreachable(t)), ending.why)
				return nil
			})
			slices := int64(time.Since(began)/acquire.Slice) + 1 // the one that waits asks again after each
			if n := m.messages.Load() - messages; n > slices {
				t.Errorf("%d messages were sent for %d callers who never had their turn", n, others)
			}
			if err := h.release(); err != nil {
				t.Error(err)
			}
			if err := <-first; err != nil {
				t.Error(err)
			}
		})
	}
}

// Two processes that fight for one key take turns.
func TestProcessesTakeTurns(t *testing.T) {
	t.Parallel()
	const turns = 400
	dsn := newDatabase(t)
	db := openDB(t, dsn)
	exec(t, db, `create table turns (id serial, who text)`)
	exec(t, db, `create table ready (who text)`)
	err := parallel(2, func(i int) error {
		return runProcess("take turns", dsn, []string{"a", "b"}[i], strconv.Itoa(turns))
	})
	if err != nil {
		t.Error(err)
	}
	share := number(t, db, `select count(*) filter (where who = 'a') * 100 / count(*) from turns where id <= $1`, turns)
	if share < 40 || share > 60 {
		t.Errorf("one of two processes got %d %% of %d turns", share, turns)
	}
}

func init() { processes["take turns"] = takeTurns }

// takeTurns is one of those processes: eight goroutines that want the key all
// the time, until both processes together have had it so many times.
func takeTurns(args []string) error {
	db, err := sql.Open("pgx", args[0])
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(8)
	who := args[1]
	turns, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if err := awaitBoth(db, who); err != nil {
		return err
	}
	l := xactlock.New(db)
	return parallel(8, func(int) error {
		for turn := 0; turn < turns; {
			err := l.WithTx(context.Background(), hashkey.Name("hot"), func(ctx context.Context, tx *sql.Tx) error {
				// A turn takes some time, so that the next waiter can line up in
				// it, however busy the machine is.
				return tx.QueryRowContext(ctx, `with turn as (insert into turns (who) values ($1) returning id)
					select id from turn, pg_sleep(0.004)`, who).Scan(&turn)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitBoth returns when both processes have called it.
func awaitBoth(db *sql.DB, who string) error {
	if _, err := db.Exec(`insert into ready values ($1)`, who); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var ready int
		if err := db.QueryRow(`select count(*) from ready`).Scan(&ready); err != nil || ready == 2 {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the other process did not come")
		}
	}
}
