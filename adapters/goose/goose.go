// Package gooselock has instances of a service that start at once migrate their
// database one after the other, with [github.com/pressly/goose/v3].
package gooselock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/pressly/goose/v3/lock"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// NewSessionLocker returns a [lock.SessionLocker] that holds the lock of key on the
// connection that goose migrates on:
//
//	l := sessionlock.New(db)
//	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations,
//		goose.WithSessionLocker(gooselock.NewSessionLocker(l, hashkey.Name("billing/migrations"))))
//
// If the session ends, the migration ends with it, and no other instance can begin
// before. A migration written in Go runs on other connections of the pool: it is
// not told of a loss.
//
// The wait is for as long as the context of the call to goose allows, or
// sessionlock.Options.Wait. It disturbs no CREATE INDEX CONCURRENTLY: see
// docs/design.md. That is what it has over goose's own locker, and that the lock of
// a machine that has vanished is freed within Options.DeadClient, and that a pooler
// in between is refused. The two do not exclude each other: all instances must use
// the one, or the other.
//
// With sessionlock.Options.MinHold, goose returns when that is over. The lock always
// excludes: Options.Shared is not looked at.
//
// db must be of pgx's stdlib.
func NewSessionLocker(l *sessionlock.Locker, key hashkey.Key) lock.SessionLocker {
	o := l.Options()
	o.Shared = false
	return &sessionLocker{sessions: l.With(o), key: key, locks: make(map[*sql.Conn]*sessionlock.Lock)}
}

type sessionLocker struct {
	sessions *sessionlock.Locker
	key      hashkey.Key

	mu    sync.Mutex
	locks map[*sql.Conn]*sessionlock.Lock // guarded by mu
}

var errNotLocked = errors.New("gooselock: this connection holds no lock")

// SessionLock is [lock.SessionLocker]'s.
func (s *sessionLocker) SessionLock(ctx context.Context, conn *sql.Conn) error {
	k, err := s.sessions.LockConn(ctx, conn, s.key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks[conn] = k
	return nil
}

// SessionUnlock is [lock.SessionLocker]'s. Its error is sessionlock.ErrLost if the
// lock was not held to the end.
func (s *sessionLocker) SessionUnlock(_ context.Context, conn *sql.Conn) error {
	s.mu.Lock()
	k := s.locks[conn]
	delete(s.locks, conn)
	s.mu.Unlock()
	if k == nil {
		return fmt.Errorf("%w: %s", errNotLocked, s.key)
	}
	return k.Unlock()
}
