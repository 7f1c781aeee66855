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
	ErrNotAcquired = lockerr.ErrNotAcquired

	// ErrLost: the session is gone, or no longer has the lock, and the next
	// holder may have it by now. It is also the cause with which the contexts
	// of WithLock and Lead end.
	ErrLost = lockerr.ErrLost

	// ErrMaxHold is the cause with which a callback's ctx ends after
	// Options.MaxHold.
	ErrMaxHold = lockerr.ErrMaxHold

	// ErrUnlocked: the lock was given back with Unlock.
	ErrUnlocked = errors.New("sessionlock: the lock was unlocked")

	// ErrPooler: the connection goes through a pooler, which may give the
	// session that holds the lock to another client. Nothing was locked.
	// Connect to the server, or see Options.Pooler; xactlock works
	// through any pooler.
	ErrPooler = lockerr.ErrPooler

	// ErrNested: the call was made with the ctx of a callback that holds the
	// same lock on the same pool, and would wait for its own end. In WithSlot's
	// callback that is any call for its key, whichever slot the callback has.
	ErrNested = lockerr.ErrNested

	// ErrLockTableFull: the server has no room for another lock.
	ErrLockTableFull = lockerr.ErrLockTableFull

	// ErrUnsupportedServer: the server's advisory locks are not PostgreSQL's. It is
	// CockroachDB, of any version: before 26.3 its lock functions lock nothing.
	ErrUnsupportedServer = lockerr.ErrUnsupportedServer

	// ErrStandby: the server is a hot standby. Its advisory locks exclude no
	// session of the primary.
	ErrStandby = lockerr.ErrStandby

	// ErrDriver: the pool's driver is not pgx's stdlib, nor a wrapper of it with
	// a method that returns the connection. No other connection can be watched,
	// and be closed so that the server notices.
	ErrDriver = lockerr.ErrDriver
)

var (
	errNoLocker = errors.New("sessionlock: the Locker is nil or zero: New makes one")
	errNilDB    = errors.New("sessionlock: New was given a nil *sql.DB")
	errNilFunc  = errors.New("sessionlock: fn is nil")
	errShared   = errors.New("sessionlock: Options.Shared: several leaders at once are none")
)

var errRows = errors.New("rows are open on the lock's Conn")

var errAnswer = errors.New("sessionlock: the server's answer is not one to the question, and the session was ended")

// How a lock was lost.
var (
	errDead       = errors.New("the session ended")
	errHungUp     = errors.New("the other side has closed the connection")
	errSilence    = errors.New("the server does not answer")
	errNotHeld    = errors.New("the session does not hold it any more")
	errConnClosed = errors.New("the connection was closed, by hand or because a statement found it broken")
	errOutstayed  = errors.New("the callback has outstayed Options.MaxHold and Grace, and the lock was taken from it")
)

// about names the key that err is about.
func about(key hashkey.Key, err error) error { return fmt.Errorf("%w: %s", err, key) }
