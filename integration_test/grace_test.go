package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// bounding is a way to hold the lock of graceKey for at most graceMaxHold and grace.
type bounding struct {
	hold func(ctx context.Context, db *sql.DB, fn func(context.Context) error) error
	is   func(obeys bool) error // what the call returns when fn returns nil; nil is no error
}

const (
	graceMaxHold, grace = 200 * time.Millisecond, 1500 * time.Millisecond
	graceKey            = "k"
)

// boundings are all ways.
func boundings() map[string]bounding {
	session := sessionlock.Options{MaxHold: graceMaxHold, Grace: grace}
	all := map[string]bounding{
		"WithLock": {
			hold: func(ctx context.Context, db *sql.DB, fn func(context.Context) error) error {
				l := sessionlock.New(db).With(session)
				return l.WithLock(ctx, hashkey.Name(graceKey), func(ctx context.Context, _ *sql.Conn) error { return fn(ctx) })
			},
			is: onlyLost,
		},
		"WithLock shareable": {
			hold: func(ctx context.Context, db *sql.DB, fn func(context.Context) error) error {
				o := session
				o.Shareable = true
				return sessionlock.New(db).With(o).WithLock(ctx, hashkey.Name(graceKey), func(ctx context.Context, _ *sql.Conn) error { return fn(ctx) })
			},
			is: onlyLost,
		},
		"Lead": {
			hold: func(ctx context.Context, db *sql.DB, fn func(context.Context) error) error {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				return sessionlock.New(db).With(session).Lead(ctx, hashkey.Name(graceKey), func(ctx context.Context) error {
					err := fn(ctx)
					cancel() // no second term
					return err
				})
			},
			is: func(obeys bool) error {
				if obeys {
					return nil
				}
				return sessionlock.ErrNotAcquired // of the campaign that would have followed
			},
		},
	}
	for path, o := range paths {
		o.MaxHold, o.Grace = graceMaxHold, grace
		all["WithTx "+path] = bounding{
			hold: func(ctx context.Context, db *sql.DB, fn func(context.Context) error) error {
				return xactlock.New(db).With(o).WithTx(ctx, hashkey.Name(graceKey), func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) })
			},
			is: func(obeys bool) error {
				if obeys {
					return context.DeadlineExceeded
				}
				return xactlock.ErrLost
			},
		}
	}
	inTx := all["WithTx plain"]
	all["WithTxOf"] = bounding{
		hold: func(ctx context.Context, db *sql.DB, fn func(context.Context) error) error {
			l := xactlock.New(db).With(xactlock.Options{MaxHold: graceMaxHold, Grace: grace})
			return withTxOf(ctx, db, l, hashkey.Name(graceKey), func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) })
		},
		is: inTx.is,
	}
	return all
}

// onlyLost is what a call returns that returns nil unless the lock was lost.
func onlyLost(obeys bool) error {
	if obeys {
		return nil
	}
	return sessionlock.ErrLost
}

// A callback that stops within Grace of its ctx's end is never overlapped. One
// that ignores its ctx is, after MaxHold and Grace, and is told ErrLost.
func TestGrace(t *testing.T) {
	t.Parallel()
	for name, b := range boundings() {
		for _, obeys := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "/obeys", false: "/ignores"}[obeys], func(t *testing.T) {
				t.Parallel()
				testGrace(t, b, obeys)
			})
		}
	}
}

func testGrace(t *testing.T, b bounding, obeys bool) {
	db, callCtx := newDB(t), bounded(t)
	inside, over := make(chan struct{}), make(chan struct{})
	var left time.Time
	var cause error
	ended := make(chan error, 1)
	go func() {
		ended <- b.hold(callCtx, db, func(ctx context.Context) error {
			close(inside)
			<-ctx.Done()
			cause = context.Cause(ctx)
			if obeys {
				time.Sleep(100 * time.Millisecond)
			} else {
				<-over
			}
			left = time.Now()
			return nil
		})
	}()
	<-inside
	began := time.Now()
	k, err := sessionlock.New(db).Lock(callCtx, hashkey.Name(graceKey))
	if err != nil {
		t.Fatal(err)
	}
	entered := time.Now()
	unlock(t, k)
	close(over)
	err = <-ended
	want := b.is(obeys)
	if want == nil && err != nil || !errors.Is(err, want) || !errors.Is(cause, sessionlock.ErrMaxHold) {
		t.Errorf("got %v, want %v; the cause is %v", err, want, cause)
	}
	if obeys && (entered.Before(left) || errors.Is(err, sessionlock.ErrLost)) {
		t.Errorf("got %v; the next holder came %v after fn had left", err, entered.Sub(left))
	}
	if !obeys && entered.Sub(began) < graceMaxHold+grace-100*time.Millisecond {
		t.Errorf("the next holder came %v after fn had begun", entered.Sub(began))
	}
	noTrace(t, db)
}

// MaxHold and Grace end a lock that is held, and not the session that had it: by
// then the session is somebody else's from the pool, or has other locks.
func TestGraceAfterUnlock(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]sessionlock.Options{"own session": {}, "shareable": shareable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			watcher := openSame(t, db)
			db.SetMaxOpenConns(1)
			l := sessionlock.New(db).With(o)
			others := db
			if o.Shareable {
				others = watcher // the session stays with the lock beside
				beside := lock(t, l, hashkey.Name("beside"))
				defer func() {
					if n := heldLocks(t, watcher); n != 1 {
						t.Errorf("%d locks are left", n)
					}
					unlock(t, beside)
				}()
			}
			o.MaxHold, o.Grace = time.Second/2, time.Second/2
			err := l.With(o).WithLock(t.Context(), hashkey.Name("k"), func(ctx context.Context, _ *sql.Conn) error {
				err := sessionlock.FromContext(ctx).Unlock()
				exec(t, others, `select pg_sleep(2)`)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
