package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// With a wait that ends just when the holder releases, the server sometimes
// grants the lock and reports the end of the wait all the same. What was
// granted like that must not get into the pool.
func TestSessionStressTimeouts(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	key := hashkey.Name("timeouts")
	want := int64(stress(20_000))
	var timeouts, grants atomic.Int64
	stop := make(chan struct{})
	holding := make(chan error, 1)
	ctx, giveUp := context.WithCancel(t.Context()) // or a lock that is left would be waited for
	defer giveUp()
	go func() { holding <- holdAndRelease(ctx, sessionlock.New(other), key, stop) }()
	err := parallel(16, func(int) error {
		for timeouts.Load() < want && ctx.Err() == nil {
			if err := db.PingContext(t.Context()); err != nil { // or the wait would be one for a connection
				return err
			}
			wait := time.Millisecond + rand.N(4*time.Millisecond)
			k, err := sessionlock.New(db).With(sessionlock.Options{Wait: wait}).Lock(ctx, key)
			switch {
			case err == nil:
				grants.Add(1)
				if err := k.Unlock(); err != nil {
					return err
				}
			case errors.Is(err, sessionlock.ErrNotAcquired):
				timeouts.Add(1)
				var left int
				if err := db.QueryRow(locksInPool).Scan(&left); err != nil || left > 0 {
					giveUp()
					return fmt.Errorf("a session in the pool holds %d locks (error %v)", left, err)
				}
			default:
				return err
			}
		}
		return nil
	})
	close(stop)
	if err := errors.Join(err, <-holding); err != nil {
		t.Error(err)
	}
	t.Logf("%d timeouts, %d grants", timeouts.Load(), grants.Load())
	// At once, because a lock in the pool would be as free to db as it is taken.
	isFree(t, other, key)
	noTrace(t, other, db)
}

// holdAndRelease takes key and gives it back after 1 to 5 ms, again and again.
func holdAndRelease(ctx context.Context, l *sessionlock.Locker, key hashkey.Key, stop <-chan struct{}) error {
	for {
		k, err := l.Lock(ctx, key)
		if err != nil {
			return err
		}
		timer := time.NewTimer(time.Millisecond + rand.N(4*time.Millisecond))
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return k.Unlock()
		}
		if err := k.Unlock(); err != nil {
			return err
		}
	}
}

// A try whose ctx ends in flight is granted the lock, or it is not, but it
// does not leave it behind.
func TestSessionStressCancelledTries(t *testing.T) {
	t.Parallel()
	db, other := two(t)
	const workers = 8
	var granted atomic.Int64
	err := parallel(workers, func(worker int) error {
		key := hashkey.Namespace("tries").ID(int64(worker))
		for ended := 0; ended < stress(20_000)/workers; {
			if err := db.PingContext(t.Context()); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(t.Context(), rand.N(400*time.Microsecond))
			k, err := sessionlock.New(db).TryLock(ctx, key)
			if ctx.Err() != nil {
				ended++
			}
			cancel()
			switch {
			case err == nil:
				granted.Add(1)
				if err := k.Unlock(); err != nil {
					return err
				}
			case errors.Is(err, sessionlock.ErrNotAcquired) && errors.Is(err, context.DeadlineExceeded):
			case errors.Is(err, sessionlock.ErrNotAcquired):
				// Nobody else wants the key. A session that was cut may take a
				// moment to end on a busy server; one in the pool never ends.
				if err := freeWithin(t.Context(), sessionlock.New(other), key); err != nil {
					return fmt.Errorf("try %d: %w", ended, err)
				}
			default:
				return fmt.Errorf("try %d: %w", ended, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d were granted", granted.Load())
	for worker := range workers {
		isFree(t, other, hashkey.Namespace("tries").ID(int64(worker)))
	}
	noTrace(t, other, db)
}

// freeWithin takes key and gives it back.
func freeWithin(ctx context.Context, l *sessionlock.Locker, key hashkey.Key) error {
	k, err := l.With(sessionlock.Options{Wait: patience}).Lock(ctx, key)
	if err != nil {
		return err
	}
	return k.Unlock()
}
