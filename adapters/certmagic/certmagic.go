// Package certmagiclock has the instances of a cluster take turns at obtaining
// certificates with [github.com/caddyserver/certmagic].
package certmagiclock

import (
	"context"
	"errors"
	"fmt"
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
// A lock that is lost is told by the unlock, with sessionlock.ErrLost, for
// certmagic to log: the next holder looks first whether the work is done.
func WithLocks(storage certmagic.Storage, l *sessionlock.Locker, ns hashkey.Namespace) certmagic.Storage {
	return &locks{Storage: storage, sessions: l, ns: ns, held: make(map[string][]*sessionlock.Lock)}
}

type locks struct {
	certmagic.Storage
	sessions *sessionlock.Locker
	ns       hashkey.Namespace

	// The locks by name, the oldest first; all but the last are lost. An unlock is
	// taken for that of the oldest, and never frees the lock of a later holder.
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

// Unlock is [certmagic.Locker]'s.
func (s *locks) Unlock(_ context.Context, name string) error {
	lock := s.oldest(name)
	if lock == nil {
		return fmt.Errorf("certmagiclock: this process does not hold %s", s.ns.Name(name))
	}
	return lock.Unlock()
}

// keep keeps a lock for Unlock.
func (s *locks) keep(name string, lock *sessionlock.Lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name] = append(s.held[name], lock)
}

// oldest returns the oldest lock of a name, and keeps it no longer.
func (s *locks) oldest(name string) *sessionlock.Lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.held[name]
	if len(all) == 0 {
		return nil
	}
	if s.held[name] = all[1:]; len(all) == 1 {
		delete(s.held, name)
	}
	return all[0]
}
