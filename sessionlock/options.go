package sessionlock

import (
	"context"
	"github.com/pgadvisory/pgadvisory/internal/bounds"
	"time"
)

// Options changes how a [Locker] locks. The zero Options is what [New] gives:
// exclusive, waiting as long as ctx allows, and with no pooler in between.
//
// A negative duration is an error on first use that names the field.
type Options struct {
	// Shared takes the lock in share mode: any number of shared holders at
	// once, and no exclusive one. [Locker.Lead] refuses it.
	//
	// Readers that hold it for longer than half a second, and of whom the next
	// comes before the last has gone, can keep a writer out without end: see
	// docs/pitfalls.md for the reason and the way out.
	Shared bool

	// Wait bounds the time from the call to the grant, on top of ctx; a try's as
	// well, which may have to wait for a connection. 0 means as long as ctx allows.
	// [Locker.Lead] does not look at it: a candidate
	// waits until its ctx ends.
	Wait time.Duration

	// Poll asks for the lock, sleeps for Poll and asks again, the last time
	// just before the wait is over, rather than queueing on the server. A call
	// that queues holds a connection, and a snapshot for at most half a second
	// at a time; one that polls holds neither between two questions, but has no
	// place in a queue. 0 means to queue.
	Poll time.Duration

	// MinHold keeps the lock taken for so long after the grant, however soon it
	// is unlocked: for a short job that several machines start at one time, by
	// clocks that differ, and that must run once. Unlock returns at once, and
	// the process gives the lock back later; if the process or the session ends
	// before, the lock is free then. On a connection of the caller's own, see
	// [Locker.LockConn], Unlock returns when MinHold is over.
	MinHold time.Duration

	// MaxHold bounds a callback that hangs: the ctx of WithLock, WithSlot or
	// Lead ends MaxHold after the grant, with the cause [ErrMaxHold]. If the
	// callback has not returned Grace later, the session is ended, which frees
	// the lock, and the call returns [ErrLost], or Lead campaigns again; so one
	// that obeys its ctx has Grace to stop before the next holder can have the
	// lock. A Shareable lock is given back then, and the other locks of its
	// session stay. 0 means no bound.
	MaxHold time.Duration

	// Grace is how long after MaxHold the session is ended. 0 means a second.
	Grace time.Duration

	// Check is how soon after its connection has broken a lock counts as
	// lost. It costs no message: it is the socket that is looked at. A
	// question to the server, for what the socket cannot show, is asked every
	// ten seconds. 0 means 1s.
	Check time.Duration

	// DeadClient is how long the server goes on holding the lock for a client
	// that has vanished without closing its connection: a machine that lost
	// its power or its network. It is set on the session for as long as it
	// holds the lock (tcp_keepalives_idle, _interval and _count,
	// tcp_user_timeout, client_connection_check_interval), and is therefore
	// precise to a few seconds, and meaningless where a proxy answers in the
	// client's place. 0 means 30s.
	//
	// [Locker.Lead], and Shareable, also have the server end a session that was
	// silent for DeadClient, and ask it something three times as often.
	DeadClient time.Duration

	// Pooler accepts a connection pooler between the client and the server,
	// which is otherwise refused with [ErrPooler]. It is safe only for a
	// pooler that gives a client one server session for as long as it is
	// connected, and cleans that session afterwards: PgBouncer with
	// pool_mode=session and its default server_reset_query.
	Pooler bool

	// Shareable has the lock live on a session that it shares with the other
	// Shareable locks of the Locker, rather than on a connection of its own, so
	// that one process can hold thousands. Its [Lock.Conn] is nil. If the session
	// is gone, all of them are lost.
	//
	// If ctx ends while the session is asked for the lock, the call returns; the
	// question goes on, and what it gets is given back. A session that does not
	// answer it within five seconds is ended.
	//
	// Within the process they exclude each other as the locks of different
	// sessions do, first come, first served. A shared one beside more of its key
	// lets another process that waits for the key go first, if they go on for half
	// a second. A lock that had to be waited for keeps the connection on which it
	// was waited for: such locks and waiters take at most half of the pool. With a
	// pool of one connection, which may be that of the session, a call asks twice a
	// second instead, as with Poll.
	//
	// Check and DeadClient are as the lock that is the first on the session has
	// them. WithSlot does not look at Shareable.
	Shareable bool

	// Observe, if not nil, is told what becomes of locks: see [Event]. It may be
	// called concurrently, and must not block; it may call Unlock. A loss, and with
	// MinHold the release, is told on a goroutine of the library's, where a panic
	// ends the process; so it is of Trace.
	Observe func(Event)

	// Trace, if not nil, is told what Observe is told, after it, with a context:
	// at Waiting that of the call (each campaign of Lead counts as one), and then
	// what it returned the time before, for the same lock. It must return ctx or
	// a context made from it. The call waits with what it returns at Waiting, and
	// the ctx of WithLock's, WithSlot's and Lead's callback is made from what it
	// returns at Granted: so what it keeps there, such as a span, is beneath the
	// caller's, and above what the callback does. It may be called concurrently
	// for different locks, and must not block.
	Trace func(ctx context.Context, e Event) context.Context
}

const (
	defaultCheck      = time.Second
	defaultDeadClient = 30 * time.Second
)

func (o *Options) validate() error {
	return bounds.Times{
		{"Wait", o.Wait}, {"Poll", o.Poll}, {"MinHold", o.MinHold}, {"MaxHold", o.MaxHold}, {"Grace", o.Grace},
		{"Check", o.Check}, {"DeadClient", o.DeadClient},
	}.Check("sessionlock")
}

func (o *Options) check() time.Duration {
	if o.Check == 0 {
		return defaultCheck
	}
	return o.Check
}

func (o *Options) deadClient() time.Duration {
	if o.DeadClient == 0 {
		return defaultDeadClient
	}
	return o.DeadClient
}

// tell tells Observe and Trace, if there are any, and returns the ctx for the next
// event of the same lock.
func (o *Options) tell(ctx context.Context, e Event) context.Context {
	if o.Observe != nil {
		o.Observe(e)
	}
	if o.Trace != nil {
		return o.Trace(ctx, e)
	}
	return ctx
}
