// Package certmagiclock has the instances of a cluster take turns at obtaining
// certificates with [github.com/caddyserver/certmagic].
package certmagiclock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/caddyserver/certmagic"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// WithLocks returns storage with the locks of l, where the key is certmagic's name in
// the namespace ns. It is for a storage that has no locks, or leases that may run out
// under the work.
//
//	l := sessionlock.New(db).With(sessionlock.Options{Shareable: true})
//	config.Storage = certmagiclock.WithLocks(storage, l, "certmagic")
//
// certmagic holds a lock for as long as it takes to obtain a certificate, which can
// be minutes, and one for each name that it is at. Hence Options.Shareable: they
// live on one connection. A lock of an instance that has vanished is free within
// Options.DeadClient; there is no lease to renew.
//
// certmagic cannot stop what it does under a lock that is lost: the next holder looks
// first whether the work is done. The unlock of such a lock is an error in the log of
// [slog.Default], and returns nil, as there is nothing to free: certmagic would take
// an error for a lock that this process still has.
//
// The locks always exclude: l's Options.Shared is not looked at.
func WithLocks(storage certmagic.Storage, l *sessionlock.Locker, ns hashkey.Namespace) certmagic.Storage {
	o := l.Options()
	o.Shared = false
	return &locks{Storage: storage, sessions: l.With(o), ns: ns, held: make(map[string][]*sessionlock.Lock)}
}

type locks struct {
	certmagic.Storage
	sessions *sessionlock.Locker
	ns       hashkey.Namespace

	// The locks by name. At most one of them is live, that of the latest holder. See
	// take for which of them an unlock means.
	mu   sync.Mutex
	held map[string][]*sessionlock.Lock // guarded by mu
}

var _ certmagic.TryLocker = (*locks)(nil)

// Lock is [certmagic.Locker]'s.
func (s *locks) Lock(ctx context.Context, name string) error {
	lock, err := s.sessions.Lock(ctx, s.ns.Name(name))
	if err != nil {
		return err
	}
	s.keep(name, lock)
	return nil
}

// TryLock is [certmagic.TryLocker]'s.
func (s *locks) TryLock(ctx context.Context, name string) (bool, error) {
	lock, err := s.sessions.TryLock(ctx, s.ns.Name(name))
	switch {
	case err == nil:
		s.keep(name, lock)
		return true, nil
	case errors.Is(err, sessionlock.ErrNotAcquired) && ctx.Err() == nil:
		return false, nil
	}
	return false, err
}

// Unlock is [certmagic.Locker]'s. If ctx ends before the server has answered, the
// error is that of ctx, and the unlock goes on.
func (s *locks) Unlock(ctx context.Context, name string) error {
	lock := s.take(name)
	if lock == nil {
		return fmt.Errorf("certmagiclock: this process does not hold %s", s.ns.Name(name))
	}
	unlocked := make(chan error, 1)
	go func() { unlocked <- unlock(lock) }()
	select {
	case err := <-unlocked:
		return err
	case <-ctx.Done():
		return fmt.Errorf("certmagiclock: unlock %s: %w", lock.Key(), ctx.Err())
	}
}

// unlock gives lock back. certmagic wants an error only for a lock that could not be
// released, so that of one that was lost is logged.
func unlock(lock *sessionlock.Lock) error {
	err := lock.Unlock()
	if errors.Is(err, sessionlock.ErrLost) {
		slog.Error("certmagiclock: the lock was not held to the end", "key", lock.Key(), "error", err)
		return nil
	}
	return err
}

// String returns what storage says of itself: certmagic logs its storage, and would
// log storage's exported fields, secrets among them.
func (s *locks) String() string {
	if storage, ok := s.Storage.(fmt.Stringer); ok {
		return storage.String()
	}
	return fmt.Sprintf("%T", s.Storage)
}

// keep keeps a lock for Unlock.
func (s *locks) keep(name string, lock *sessionlock.Lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name] = append(s.held[name], lock)
}

// take returns the lock that an unlock of name means, and keeps it no longer. That
// is one that is known to be lost, or else the oldest: the lock of a later holder is
// not freed by the unlock of a holder that has lost its own.
func (s *locks) take(name string) *sessionlock.Lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.held[name]
	if len(all) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(all, func(lock *sessionlock.Lock) bool { return lock.Err() != nil }))
	lock := all[i]
	if s.held[name] = slices.Delete(all, i, i+1); len(all) == 1 {
		delete(s.held, name)
	}
	return lock
}
