package sessionlock

import (
	"context"
	"database/sql"
	"errors"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// LockConn is [Locker.Lock] on a connection of the caller's own, for a program
// that already has one for its work, as a migration tool has: the session that
// works is the one that holds the lock, so the work cannot go on without it.
//
// conn is one of the Locker's pool, with no transaction and no rows open; a statement
// that runs on it is waited for, whatever ctx says. The
// caller keeps it, must not close it before [Lock.Unlock], and closes it after.
// Unlock gives this lock back, and leaves conn as it was, with whatever other locks
// it has; where that is not certain, and where the lock is lost, the session is
// ended, and further statements on conn fail. With Options.MinHold, Unlock returns
// when that is over. A call that waits keeps conn, too. Options.Shareable is not
// looked at.
//
// conn may have several keys locked, and has the settings of the latest one's Options
// then, until the last is given back. Of a key that it has locked already,
// whichever Locker was asked, LockConn is an error, as it is on the connection of
// another lock, [Lock.Conn], which goes back to the pool with that.
func (l *Locker) LockConn(ctx context.Context, conn *sql.Conn, key hashkey.Key) (*Lock, error) {
	return l.lockConn(ctx, conn, key, false)
}

// TryLockConn is [Locker.LockConn] for a lock that is free: if another session holds
// it or waits for it, the error is [ErrNotAcquired] at once.
func (l *Locker) TryLockConn(ctx context.Context, conn *sql.Conn, key hashkey.Key) (*Lock, error) {
	return l.lockConn(ctx, conn, key, true)
}

func (l *Locker) lockConn(ctx context.Context, conn *sql.Conn, key hashkey.Key, try bool) (*Lock, error) {
	if conn == nil {
		return nil, errNilConn
	}
	r := l.request(ctx, try)
	r.conn = conn
	return l.take(ctx, key, r)
}

var errNilConn = errors.New("sessionlock: the *sql.Conn is nil")
