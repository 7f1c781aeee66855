package pgxlock

import (
	"errors"

	"github.com/pgadvisory/pgadvisory/internal/txlock"
	"github.com/pgadvisory/pgadvisory/xactlock"
)

// pkg is the prefix of messages.
const pkg = "pgxlock"

// Options changes how a [Locker] locks. They are xactlock's, so that a
// program can have one value for both. Two of them are about database/sql, and say
// nothing here that is not so already:
//
//   - RequirePgx is always fulfilled.
//   - Plain is an error on first use: there is no other way to begin a
//     transaction than the one of this package, and a program that asks for it
//     would not get what it is for.
type Options = xactlock.Options

// Event is what Options.Observe learns of one call. Plain is always false.
type Event = xactlock.Event

// Tracer is told of calls while they run, with a context, for spans:
// Options.Trace.
type Tracer = xactlock.Tracer

// Call is what a [Tracer] learns at the start of a call.
type Call = xactlock.Call

// Outcome is how a call ended.
type Outcome = xactlock.Outcome

// The outcomes.
const (
	Committed   = xactlock.Committed   // fn returned nil and its writes are committed
	RolledBack  = xactlock.RolledBack  // fn ran and nothing of it is committed
	NotAcquired = xactlock.NotAcquired // fn did not run: the lock was not to be had in time
	Failed      = xactlock.Failed      // something failed before fn ran, or the server refused the commit
	Unknown     = xactlock.Unknown     // the answer to COMMIT never came, or fn ended the transaction by a way of its own
	Granted     = xactlock.Granted     // the lock is held: a Lock or TryLock has ended well, or fn is about to run
)

// Errors to test for with [errors.Is]. They are the same values as xactlock's,
// which says what each of them means. The driver's error behind one of them is
// found by [errors.As].
var (
	ErrNotAcquired       = xactlock.ErrNotAcquired
	ErrNested            = xactlock.ErrNested
	ErrTxEnded           = xactlock.ErrTxEnded
	ErrStaleSnapshot     = xactlock.ErrStaleSnapshot
	ErrLost              = xactlock.ErrLost
	ErrCommitUnknown     = xactlock.ErrCommitUnknown
	ErrDeadlock          = xactlock.ErrDeadlock
	ErrLockTableFull     = xactlock.ErrLockTableFull
	ErrUnsupportedServer = xactlock.ErrUnsupportedServer
	ErrStandby           = xactlock.ErrStandby
)

var (
	errNilPool = errors.New("pgxlock: New was given a nil *pgxpool.Pool")
	errPlain   = errors.New("pgxlock: Options.Plain is for xactlock")
)

// settings returns what o says about a transaction and its locks.
func settings(o *Options) txlock.Settings {
	return txlock.Settings{
		Shared:     o.Shared,
		Wait:       o.Wait,
		Poll:       o.Poll,
		Isolation:  o.Isolation,
		ReadOnly:   o.ReadOnly,
		MaxHold:    o.MaxHold,
		Grace:      o.Grace,
		MaxWaiters: o.MaxWaiters,
	}
}
