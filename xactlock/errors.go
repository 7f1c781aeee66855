package xactlock

import (
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/lockerr"
)

// Errors to test for with [errors.Is]. Where a driver's error is behind one of
// them, [errors.As] still finds it.
var (
	// ErrNotAcquired: fn did not run, because the lock was not to be had in
	// time. After a try it stands alone; where ctx or Options.Wait ended the
	// wait, it is joined with ctx's own error or context.DeadlineExceeded.
	ErrNotAcquired = lockerr.ErrNotAcquired

	// ErrNested: the call was made with the ctx of a callback that holds a
	// lock on the same pool, and could wait for ever on a second connection
	// for what the first one holds. Take the second lock with [Locker.Lock]
	// on the transaction in hand, or both at once with [Locker.WithTxAll].
	ErrNested = lockerr.ErrNested

	// ErrTxEnded: fn ended the transaction, which is WithTx's to end. After
	// tx.Commit or tx.Rollback nothing is committed, but through database/sql
	// alone (Options.Plain, WithTxOf) they have done what they say, as has SQL
	// text that ends a transaction. Then it is joined with fn's error or ctx's,
	// if there is one.
	ErrTxEnded = lockerr.ErrTxEnded

	// ErrStaleSnapshot: the transaction handed to [Locker.Lock] or
	// [Locker.TryLock], or begun for [WithTxOf], is REPEATABLE READ or SERIALIZABLE, so what it reads
	// may be older than the lock. No lock was taken.
	ErrStaleSnapshot = lockerr.ErrStaleSnapshot

	// ErrLost: the session that held the lock was gone before COMMIT was
	// executed. Nothing is committed, and fn may have run while another holder
	// did.
	ErrLost = lockerr.ErrLost

	// ErrCommitUnknown: the answer to COMMIT never came, or was not understood, or
	// its wait for a synchronous standby was cancelled, so that a failover may lose it.
	// fn's writes are committed, or they are not; the lock is free, or will be
	// as soon as the server notices.
	ErrCommitUnknown = lockerr.ErrCommitUnknown

	// ErrDeadlock: the server chose this wait to end a deadlock (SQLSTATE
	// 40P01). Nothing is held.
	ErrDeadlock = lockerr.ErrDeadlock

	// ErrLockTableFull: the server has no room for one lock more (SQLSTATE
	// 53200). Its lock table has max_locks_per_transaction entries for each
	// connection it allows.
	ErrLockTableFull = lockerr.ErrLockTableFull

	// ErrUnsupportedServer: the server's advisory locks are not PostgreSQL's. It is
	// CockroachDB, of any version: before 26.3 its lock functions lock nothing.
	ErrUnsupportedServer = lockerr.ErrUnsupportedServer

	// ErrStandby: the server is a hot standby. Its advisory locks exclude no
	// session on the primary.
	ErrStandby = lockerr.ErrStandby

	// ErrDriver: the pool's driver is not pgx's stdlib, nor a wrapper of it
	// with a method that returns the connection, and Options.RequirePgx is set.
	ErrDriver = lockerr.ErrDriver
)

var (
	errNilDB      = errors.New("xactlock: New was given a nil *sql.DB")
	errSlotsPlain = errors.New("xactlock: slots at REPEATABLE READ and SERIALIZABLE need pgx, and no Options.Plain")
	errNilBegin   = errors.New("xactlock: begin is nil")
	errBegunNil   = errors.New("begin returned neither a transaction nor an error")
)
