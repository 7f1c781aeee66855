package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

func TestSessionUnlockTwice(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("twice")
	k := lock(t, sessionlock.New(db), key)
	// From other goroutines, at once, and again.
	if err := parallel(8, func(int) error { return k.Unlock() }); err != nil {
		t.Error(err)
	}
	unlock(t, k)
	wantError(t, k.Err(), sessionlock.ErrUnlocked)
	select {
	case <-k.Lost():
	default:
		t.Error("Lost is not closed")
	}
	isFree(t, other, key)
	noTrace(t, db, other)
}

func TestSessionUnlockAfterLoss(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("after loss")
	k := lock(t, sessionlock.New(db).With(quick), key)
	terminate(t, other, backend(t, k))
	lostWithin(t, k, time.Second)
	for range 2 {
		wantError(t, k.Unlock(), sessionlock.ErrLost)
	}
	wantError(t, k.Err(), sessionlock.ErrLost)
	noTrace(t, db, other)
}

// Unlock notices a loss before the watch does, and says so.
func TestSessionUnlockNoticesLoss(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	k := lock(t, sessionlock.New(db).With(sessionlock.Options{Check: time.Hour}), hashkey.Name("unnoticed"))
	terminate(t, other, backend(t, k))
	until(t, "it is gone", func() bool { return heldLocks(t, other) == 0 })
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	noTrace(t, db, other)
}

// An unlock that the server answers with false says that the lock was lost,
// and does not give the session back.
func TestSessionUnlockFalse(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("false")
	k := lock(t, sessionlock.New(db), key)
	pid := backend(t, k)
	if _, err := k.Conn().ExecContext(t.Context(), `select pg_advisory_unlock_all()`); err != nil {
		t.Fatal(err)
	}
	wantError(t, k.Unlock(), sessionlock.ErrLost)
	sessionEnds(t, other, pid)
	noTrace(t, db, other)
}

// A server that does not answer does not keep Unlock: after about five seconds
// it gives up and ends the session, whether it is the unlock that is not
// answered or a statement before it.
func TestSessionUnlockSwallowed(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(tb testing.TB, other *sql.DB, k *sessionlock.Lock){
		"idle":      func(testing.TB, *sql.DB, *sessionlock.Lock) {},
		"statement": sleeps,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDatabase(t)
			other := openDB(t, dsn)
			p, through := newProxy(t, dsn)
			key := hashkey.Name("swallowed")
			k := lock(t, sessionlock.New(openDB(t, dsn, through)).With(sessionlock.Options{Check: time.Hour, DeadClient: time.Second}), key)
			prepare(t, other, k)
			p.silent.Store(true)
			start := time.Now()
			done := make(chan error, 1)
			go func() { done <- k.Unlock() }()
			select {
			case err := <-done:
				wantError(t, err, sessionlock.ErrLost)
			case <-time.After(patience):
				t.Error("Unlock does not return")
				p.cutAll()
				<-done
			}
			if took := time.Since(start); took < 3*time.Second || took > 8*time.Second {
				t.Errorf("Unlock took %v, want about 5s", took)
			}
			p.silent.Store(false)
			p.cutAll() // the server has not heard the goodbye
			becomesFree(t, other, key)
			noTrace(t, other)
		})
	}
}

// sleeps has a statement run on the session of k, for as long as that lasts.
func sleeps(tb testing.TB, other *sql.DB, k *sessionlock.Lock) {
	tb.Helper()
	pid := backend(tb, k)
	ended := make(chan error, 1)
	go func() {
		_, err := k.Conn().ExecContext(context.Background(), `select pg_sleep(3600)`)
		ended <- err
	}()
	tb.Cleanup(func() {
		if err := <-ended; err == nil {
			tb.Error("the statement succeeded")
		}
	})
	until(tb, "the statement runs", func() bool {
		return number(tb, other, `select count(*) from pg_stat_activity where pid = $1 and state = 'active'`, pid) == 1
	})
}

func sessionEnds(tb testing.TB, db *sql.DB, pid int) {
	tb.Helper()
	until(tb, "the session is gone", func() bool {
		return number(tb, db, `select count(*) from pg_stat_activity where pid = $1`, pid) == 0
	})
}

// What was locked by hand on Conn does not reach the pool.
func TestSessionLocksByHand(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	k := lock(t, sessionlock.New(db), hashkey.Int64(1))
	if _, err := k.Conn().ExecContext(t.Context(), `select pg_advisory_lock(1), pg_advisory_lock(2)`); err != nil {
		t.Fatal(err)
	}
	unlock(t, k)
	isFree(t, other, hashkey.Int64(1))
	isFree(t, other, hashkey.Int64(2))
	noTrace(t, db, other)
}

// A transaction or rows that were left open are an error, but the lock is
// free, and Unlock does not wait for them to be closed.
func TestSessionUnlockWithSomethingOpen(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*sql.Conn) (closing func() error, err error){
		"rows": func(conn *sql.Conn) (func() error, error) {
			rows, err := conn.QueryContext(t.Context(), `select generate_series(1, 1000000)`)
			if err != nil {
				return nil, err
			}
			if !rows.Next() {
				return nil, rows.Err()
			}
			return func() error { _ = rows.Close(); return nil }, nil
		},
		"transaction": func(conn *sql.Conn) (func() error, error) {
			tx, err := conn.BeginTx(t.Context(), nil)
			if err != nil {
				return nil, err
			}
			return func() error { _ = tx.Rollback(); return nil }, nil
		},
		"begin by hand": func(conn *sql.Conn) (func() error, error) {
			_, err := conn.ExecContext(t.Context(), `begin`)
			return func() error { return nil }, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, other := two(t)
			key := hashkey.Name("open")
			k := lock(t, sessionlock.New(db), key)
			closing, err := open(k.Conn())
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err = k.Unlock()
			if err == nil || errors.Is(err, sessionlock.ErrLost) {
				t.Errorf("Unlock returns %v", err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("Unlock took %v", took)
			}
			wantError(t, k.Err(), sessionlock.ErrUnlocked)
			becomesFree(t, other, key)
			if err := closing(); err != nil {
				t.Error(err)
			}
			noTrace(t, db, other)
		})
	}
}

// A statement that runs on Conn gets four seconds, then Unlock cancels it.
func TestSessionUnlockUnderStatement(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("statement")
	k := lock(t, sessionlock.New(db), key)
	sleeps(t, other, k)
	start := time.Now()
	unlock(t, k)
	if took := time.Since(start); took < 3*time.Second || took > 7*time.Second {
		t.Errorf("Unlock took %v, want about 4s", took)
	}
	isFree(t, other, key)
	noTrace(t, db, other)
}

// A connection that was closed by hand is in the pool with the lock on it. The
// session is ended for that, by the watch or by Unlock, whoever comes first.
func TestSessionConnClosed(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]sessionlock.Options{"watch": quick, "unlock": {Check: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			db, other := two(t)
			key := hashkey.Name("closed")
			k := lock(t, sessionlock.New(db).With(o), key)
			if err := k.Conn().Close(); err != nil {
				t.Fatal(err)
			}
			if name == "watch" {
				lostWithin(t, k, time.Second)
			} else {
				wantError(t, k.Unlock(), sessionlock.ErrLost)
			}
			becomesFree(t, other, key)
			wantError(t, k.Unlock(), sessionlock.ErrLost)
			exec(t, db, `select 1`) // the pool is none the worse for it
			noTrace(t, db, other)
		})
	}
}

func TestSessionWithLock(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("with")
	locker := sessionlock.New(db)
	run := func(fn func(ctx context.Context, conn *sql.Conn) error) error {
		return locker.WithLock(bounded(t), key, func(ctx context.Context, conn *sql.Conn) error {
			if n := heldLocks(t, other); n != 1 {
				t.Errorf("%d locks are held", n)
			}
			if k := sessionlock.FromContext(ctx); k == nil || k.Conn() != conn || k.Key() != key {
				t.Errorf("FromContext is %v", k)
			}
			return fn(ctx, conn)
		})
	}
	if err := run(func(context.Context, *sql.Conn) error { return nil }); err != nil {
		t.Error(err)
	}
	isFree(t, other, key)
	if err := run(func(context.Context, *sql.Conn) error { return errExpected }); err != errExpected {
		t.Errorf("fn's error comes back as %v", err)
	}
	isFree(t, other, key)
	func() {
		defer func() {
			if p := recover(); p != errExpected {
				t.Errorf("fn's panic comes back as %v", p)
			}
		}()
		_ = run(func(context.Context, *sql.Conn) error { panic(errExpected) })
	}()
	isFree(t, other, key)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = run(func(context.Context, *sql.Conn) error { runtime.Goexit(); return nil })
	}()
	<-done
	isFree(t, other, key)
	// Unlocked from inside, as a Lock may be.
	err := run(func(ctx context.Context, _ *sql.Conn) error {
		unlock(t, sessionlock.FromContext(ctx))
		<-ctx.Done()
		return context.Cause(ctx)
	})
	wantError(t, err, sessionlock.ErrUnlocked)
	noTrace(t, db, other)
}

// fn's ctx does not outlive the lock: what fn has left running with it ends
// when the call is back, however fn ended.
func TestSessionCtxEndsWithTheCall(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("kept")
	locker := sessionlock.New(db)
	plain := func(fn func(context.Context) error) func(context.Context, *sql.Conn) error {
		return func(ctx context.Context, _ *sql.Conn) error { return fn(ctx) }
	}
	for name, call := range map[string]func(fn func(context.Context) error) error{
		"WithLock":    func(fn func(context.Context) error) error { return locker.WithLock(t.Context(), key, plain(fn)) },
		"TryWithLock": func(fn func(context.Context) error) error { return locker.TryWithLock(t.Context(), key, plain(fn)) },
		"Lead":        func(fn func(context.Context) error) error { return locker.Lead(t.Context(), key, fn) },
	} {
		for how, end := range map[string]func() error{
			"returns nothing":  func() error { return nil },
			"returns an error": func() error { return errExpected },
			"panics":           func() error { panic(errExpected) },
		} {
			var kept context.Context
			func() {
				defer func() { _ = recover() }()
				_ = call(func(ctx context.Context) error {
					if err := ctx.Err(); err != nil {
						t.Errorf("%s: while the lock is held the ctx has ended: %v", name, err)
					}
					kept = ctx
					return end()
				})
			}()
			if kept == nil || kept.Err() == nil {
				t.Errorf("%s, fn %s: its ctx goes on, want one that has ended", name, how)
			}
		}
	}
	noTrace(t, db, other)
}

func TestSessionTryWithLock(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("try with")
	k := lock(t, sessionlock.New(other), key)
	ran := 0
	fn := func(context.Context, *sql.Conn) error { ran++; return nil }
	wantError(t, sessionlock.New(db).TryWithLock(t.Context(), key, fn), sessionlock.ErrNotAcquired)
	unlock(t, k)
	if err := sessionlock.New(db).TryWithLock(t.Context(), key, fn); err != nil || ran != 1 {
		t.Errorf("%v, ran %d times", err, ran)
	}
	noTrace(t, db, other)
}

// The lock outlives ctx, for as long as fn takes.
func TestSessionCancelledInsideFn(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("outlives")
	ctx, cancel := context.WithCancel(t.Context())
	err := sessionlock.New(db).WithLock(ctx, key, func(ctx context.Context, _ *sql.Conn) error {
		cancel()
		<-ctx.Done()
		if n := heldLocks(t, other); n != 1 {
			t.Errorf("%d locks are held", n)
		}
		return ctx.Err()
	})
	if err != context.Canceled {
		t.Errorf("error is %v", err)
	}
	isFree(t, other, key)
	noTrace(t, db, other)
}

// A call whose ctx ends just as its lock is granted returns, also where the network
// swallows the unlock.
func TestSessionGrantIsGivenBack(t *testing.T) {
	t.Parallel()
	dsn := newDatabase(t)
	watcher := openDB(t, dsn)
	p, through := newProxy(t, dsn)
	db := openDB(t, dsn, through)
	ended, cancel := context.WithCancel(t.Context())
	granted := sync.OnceFunc(func() {
		p.silent.Store(true)
		cancel()
	})
	ctx := errCtx{ended, func() {
		if heldLocks(t, watcher) == 1 {
			granted()
		}
	}}
	returned := make(chan error, 1)
	go func() {
		_, err := sessionlock.New(db).Lock(ctx, hashkey.Name("k"))
		returned <- err
	}()
	select {
	case err := <-returned:
		wantError(t, err, sessionlock.ErrNotAcquired, context.Canceled)
	case <-time.After(patience):
		t.Error("the call hangs")
		p.cutAll()
		<-returned
	}
	p.cutAll()
	noTrace(t, watcher, db)
}
