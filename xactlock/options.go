package xactlock

import (
	"database/sql"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/txlock"
)

// Options changes how a [Locker] locks. The zero Options is what [New] gives:
// exclusive, waiting as long as ctx allows, READ COMMITTED.
//
// A negative duration or count, or an isolation level that PostgreSQL does not
// have, is an error on first use that names the field.
//
// [Locker.Lock] and [Locker.TryLock] obey Shared, Wait, Poll and Trace; the other
// fields are for the call that begins the transaction.
type Options struct {
	// Shared takes the lock in share mode: any number of shared holders at
	// once, and no exclusive one.
	//
	// Readers that hold it for longer than half a second, and of whom the next
	// comes before the last has gone, can keep a writer out without end: see
	// docs/pitfalls.md for the reason and the way out.
	Shared bool

	// Wait bounds the time from the call to the grant, on top of ctx. 0 means
	// as long as ctx allows. It does not bound fn.
	Wait time.Duration

	// Poll asks for the lock, sleeps for Poll and asks again, rather than
	// queueing on the server. A call that queues holds a connection, and a
	// snapshot for at most half a second at a time; one that polls holds
	// neither between two questions, but has no place in a queue. 0 means to
	// queue. [Locker.Lock] differs: its comment tells.
	Poll time.Duration

	// Isolation is the transaction's isolation level. LevelDefault means READ
	// COMMITTED, whatever the server's default is.
	Isolation sql.IsolationLevel

	// ReadOnly makes the transaction READ ONLY.
	ReadOnly bool

	// MaxHold bounds a holder that hangs: fn's ctx ends MaxHold after the
	// grant, with sessionlock's ErrMaxHold as its cause. If fn has not
	// returned Grace later, its session is ended, which frees the lock, and
	// the call returns [ErrLost]; so an fn that obeys its ctx has Grace to
	// stop before anybody else can hold the lock. If the whole process hangs,
	// the server ends the session a tenth of a second later, if it was silent
	// all the time, and from PostgreSQL 17 in any case (unless a statement of
	// fn has failed, after which the server counts only silence). On drivers
	// other than pgx, and in WithTxOf, nobody but the server does. MaxHold
	// takes the place of the role's idle_in_transaction_session_timeout and
	// transaction_timeout. 0 means that only those apply.
	MaxHold time.Duration

	// Grace is how long after MaxHold the session is ended. 0 means a second.
	Grace time.Duration

	// MaxWaiters is how many goroutines may wait on the server for one key,
	// each with a connection of the pool; the rest wait in memory, first
	// come, first served. 0 means 1, which is enough to hand a lock over
	// without a pause. Lockers made by With queue together as long as they
	// agree on it.
	MaxWaiters int

	// Plain begins the transaction through the pool's own BeginTx, so that
	// [sql.Tx.Stmt] works with statements prepared on the pool. It costs two
	// round trips more, three more with MaxHold, and four more at REPEATABLE
	// READ and SERIALIZABLE. Drivers other than pgx are always used like this.
	//
	// On this path a tx.Commit inside fn, or SQL text that ends the
	// transaction, is noticed when fn returns, but not prevented: it commits,
	// and the call returns ErrTxEnded. And if ctx ends while a statement of fn
	// runs, pgx closes the connection and the lock is gone before fn returns.
	// At REPEATABLE READ and SERIALIZABLE the connection must not go through a
	// pooler in transaction mode. On drivers other than pgx, fn is not told that
	// its session is gone until a statement fails.
	Plain bool

	// RequirePgx has calls fail with [ErrDriver], rather than take the plain
	// path, where the driver is not pgx's and hides pgx's connection. With Plain,
	// too, the driver is to be pgx's.
	RequirePgx bool

	// Observe, if not nil, is called once at the end of each call that runs a
	// function, and of Exec, when the connection is back in the
	// pool and before the call returns (or panics on). It may be called
	// concurrently. An Exec that goes in one message does not see its grant:
	// all its time is in Waited.
	Observe func(Event)

	// Trace, if not nil, is told of each call while it runs: see [Tracer].
	Trace Tracer
}

// settings returns what the options say about a transaction and its locks.
func (o *Options) settings() txlock.Settings {
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
