package sessionlock

import (
	"errors"
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// Errors to test for with [errors.Is]. Where a driver's error is behind one of
// them, [errors.As] still finds it.
var (
	// ErrNotAcquired: the lock was not to be had in time, and nothing is held.
	// After a try it stands alone; where ctx or Options.Wait ended the wait,
	// it is joined with ctx's own error or context.DeadlineExceeded.
	ErrNotAcquired = lockerr.NotAcquired

	// ErrLost: the session is gone, or no longer has the lock, and somebody
	// else may hold it by now. It is also the cause with which the contexts
	// of WithLock and Lead end.
	ErrLost = errors.New("sessionlock: the lock was lost")

	// ErrUnlocked: the lock was given back with Unlock.
	ErrUnlocked = errors.New("sessionlock: the lock was unlocked")

	// ErrPooler: the connection goes through a pooler, which may give the
	// session that holds the lock to another client. Nothing was locked.
	// Connect to the server itself, or see Options.Pooler; xactlock works
	// through any pooler.
	ErrPooler = errors.New("sessionlock: there is a connection pooler between this client and the server" +
		" (connect to the server directly, or set Options.Pooler if it pools sessions, or use xactlock)")

	// ErrNested: the call was made with the ctx of a callback that holds the
	// same lock on the same pool, and would wait for itself.
	ErrNested = lockerr.Nested

	// ErrUnsupportedServer: the server accepts advisory lock functions and
	// locks nothing, as CockroachDB does.
	ErrUnsupportedServer = lockerr.UnsupportedServer

	// ErrStandby: the server is a hot standby, whose advisory locks exclude
	// nobody on the primary.
	ErrStandby = lockerr.Standby
)

var (
	errNilDB   = errors.New("sessionlock: New was given a nil *sql.DB")
	errNilFunc = errors.New("sessionlock: fn is nil")
	errShared  = errors.New("sessionlock: Options.Shared: several leaders at once are none")

	// Nothing but the driver's own connection can be watched, and be closed so
	// that the server notices.
	errDriver = errors.New("sessionlock: this needs a connection of pgx's stdlib, or a wrapper of one with a method Raw() driver.Conn")

	errRefused = errors.New("sessionlock: somebody else has the lock") // seen by no caller
)

// about names the key that err is about.
func about(key hashkey.Key, err error) error { return fmt.Errorf("%w: %s", err, key) }
