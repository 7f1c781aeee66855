package main

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/pulse"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// check is how soon a session that has ended is noticed.
const check = 250 * time.Millisecond

// hold is a lock that is held.
type hold struct {
	*sessionlock.Lock
	granted  time.Time
	giveBack func() error
}

// Unlock is that of the lock, or gives the slot back.
func (h *hold) Unlock() error { return h.giveBack() }

// lockOptions returns the options of every lock of the program.
func (p *program) lockOptions() sessionlock.Options {
	return sessionlock.Options{Shared: p.shared, Check: check, DeadClient: p.deadClient, Pooler: p.pooler}
}

// pulsed returns a ctx to take a lock with. A loss of the lock is noticed before
// the server gives the lock of a vanished client to the next one.
func (p *program) pulsed(ctx context.Context) context.Context {
	if p.deadClient == 0 {
		return ctx
	}
	return pulse.With(ctx, min(pulse.Default, p.deadClient/3))
}

// ask asks for a lock: wait is 0 for a try.
func ask(ctx context.Context, locker *sessionlock.Locker, key hashkey.Key, wait time.Duration) (*hold, error) {
	by := locker.TryLock
	if wait > 0 {
		o := locker.Options()
		o.Wait = wait
		by = locker.With(o).Lock
	}
	lock, err := by(ctx, key)
	if err != nil {
		return nil, err
	}
	return &hold{lock, time.Now(), lock.Unlock}, nil
}

// askSlot asks for one of n slots of a key: wait is 0 for a try.
func askSlot(ctx context.Context, locker *sessionlock.Locker, key hashkey.Key, n int, wait time.Duration) (*hold, error) {
	by := locker.TryWithSlot
	if wait > 0 {
		o := locker.Options()
		o.Wait = wait
		by = locker.With(o).WithSlot
	}
	granted, over, done := make(chan *sessionlock.Lock, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- by(ctx, key, n, func(ctx context.Context, _ *sql.Conn) error {
			granted <- sessionlock.FromContext(ctx)
			<-over
			return nil
		})
	}()
	select {
	case lock := <-granted:
		return &hold{lock, time.Now(), sync.OnceValue(func() error {
			close(over)
			return <-done
		})}, nil
	case err := <-done:
		return nil, err
	}
}
