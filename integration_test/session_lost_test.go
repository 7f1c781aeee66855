package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// homes are the two kinds of sessions that a lock can have.
var homes = map[string]sessionlock.Options{"own": {}, "shareable": {Shareable: true}}

// terminateHolders ends all sessions that hold a lock of the database.
func terminateHolders(t *testing.T, db *sql.DB) {
	t.Helper()
	exec(t, db, `select pg_terminate_backend(pid, 5000) from pg_locks where`+inThisDatabase)
}

// A lock that was lost before fn returned is reported as lost, before the watch has
// noticed, and also where MinHold keeps it for longer.
func TestSessionLostBeforeTheEnd(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		for _, minHold := range []time.Duration{0, time.Second} {
			t.Run(name+", MinHold "+minHold.String(), func(t *testing.T) {
				t.Parallel()
				db, other := two(t)
				o := o
				o.Check, o.MinHold = time.Hour, minHold
				err := sessionlock.New(db).With(o).WithLock(t.Context(), hashkey.Name("k"), func(context.Context, *sql.Conn) error {
					terminateHolders(t, other)
					isFree(t, other, hashkey.Name("k")) // somebody else has had it
					return nil
				})
				wantError(t, err, sessionlock.ErrLost)
				noTrace(t, other, db)
			})
		}
	}
}

// Token of a lock whose session has ended is ErrLost, before the watch has noticed.
func TestSessionTokenOfALostLock(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, other := two(t)
			o := o
			o.Check = time.Hour
			k := lock(t, sessionlock.New(db).With(o), hashkey.Name("k"))
			terminateHolders(t, other)
			becomesFree(t, other, hashkey.Name("k"))
			_, err := k.Token(t.Context())
			wantError(t, err, sessionlock.ErrLost)
		})
	}
}

// A callback that hangs past MaxHold and Grace keeps the key from nobody, of this
// process neither.
func TestSessionOutstayedHoldIsOver(t *testing.T) {
	t.Parallel()
	for name, o := range homes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, other := two(t)
			o := o
			o.MaxHold, o.Grace, o.Wait = 20*time.Millisecond, 20*time.Millisecond, patience
			l, key := sessionlock.New(db).With(o), hashkey.Name("k")
			hang, entered, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				done <- l.WithLock(context.Background(), key, func(context.Context, *sql.Conn) error {
					close(entered)
					<-hang
					return nil
				})
			}()
			<-entered
			becomesFree(t, other, key)
			o.MaxHold = 0
			err := l.With(o).WithLock(t.Context(), key, func(context.Context, *sql.Conn) error {
				close(hang)
				wantError(t, <-done, sessionlock.ErrLost)
				next, err := sessionlock.New(other).TryLock(t.Context(), key)
				wantError(t, err, sessionlock.ErrNotAcquired) // the lock that was lost is not given back once more
				if err == nil {
					unlock(t, next)
				}
				return nil
			})
			if err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// A Shareable lock that MinHold keeps, and whose session ends, is free: in its own
// process too.
func TestShareableMinHoldLost(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	o := sessionlock.Options{Check: quick.Check, MinHold: time.Hour, Shareable: true}
	l, key := sessionlock.New(db).With(o), hashkey.Name("k")
	k, err := l.Lock(t.Context(), key)
	wantNoError(t, err)
	unlock(t, k)
	terminateHolders(t, other)
	becomesFree(t, other, key)
	o.MinHold, o.Wait = 0, patience
	next, err := l.With(o).Lock(t.Context(), key)
	wantNoError(t, err)
	unlock(t, next)
}

// The end of ctx is told, also where the key is taken.
func TestSessionTryUnderAnEndedCtx(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for name, o := range homes {
		l, key := sessionlock.New(db).With(o), hashkey.Name(name)
		k := lock(t, l, key)
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("cause")
		cancel(cause)
		_, err := l.TryLock(ctx, key)
		wantError(t, err, sessionlock.ErrNotAcquired, context.Canceled, cause)
		unlock(t, k)
	}
}

// Lead says in its last error that it has led, and lost the lock.
func TestLeadSaysThatItHasLost(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := sessionlock.New(db).With(quick).Lead(ctx, hashkey.Name("k"), func(fnCtx context.Context) error {
		terminateHolders(t, other)
		<-fnCtx.Done()
		wantError(t, context.Cause(fnCtx), sessionlock.ErrLost)
		cancel() // the program ends
		return nil
	})
	wantError(t, err, sessionlock.ErrLost, context.Canceled)
}

// A candidate goes on whatever the name of its key.
func TestLeadOfAKeyLikeAnError(t *testing.T) {
	t.Parallel()
	away := openUnchecked(t, "postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	for _, name := range []string{"k", "heat the closed pool"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := sessionlock.New(away).Lead(ctx, hashkey.Name(name), func(context.Context) error { return nil })
		if ctx.Err() == nil {
			t.Errorf("%s: it has given up: %v", name, err)
		}
	}
}
