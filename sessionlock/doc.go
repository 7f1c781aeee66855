// Package sessionlock holds a PostgreSQL advisory lock for as long as a
// session lasts: for work that does not fit into a transaction, such as a
// migration, a clock process or a leader.
//
//	locker := sessionlock.New(db)
//
//	err := locker.WithLock(ctx, hashkey.Name("migrations"), func(ctx context.Context, conn *sql.Conn) error {
//		return migrate(ctx, conn)
//	})
//
// The lock is pg_advisory_lock. The session that takes it is pinned: one
// connection of the pool belongs to the lock until it is given back, and the
// unlock goes to that same connection. Whatever happens in between, the lock
// does not get into the pool: a session in an uncertain state is closed.
//
// What fits into a transaction is better done with
// [github.com/pgadvisory/pgadvisory/xactlock]: its lock cannot get lost
// without the work being rolled back. A session lock can: the server ends the
// session, or the network does, and the work goes on. This package notices
// (see [Lock.Lost]) and says so, but it cannot undo, and between the loss and
// the notice the next holder may have the lock. Work that must not overlap
// carries the fencing token of its lock, [Lock.Token], to wherever it writes,
// and is refused there once a larger one was seen.
//
// The pool is a *sql.DB of pgx's stdlib package, over a pgxpool or not, wrapped
// or not as long as the wrapper has a method Raw or WrappedConn that returns a
// driver.Conn. No other driver
// lets a connection be watched and closed; they are refused with an error.
//
// # Leader election
//
// [Locker.Lead] makes one process of many the leader. A process is in one of
// three states.
//
// As a candidate it waits on the server for the lock, in the server's queue, or
// asks every Options.Poll. While the database cannot be reached, or is a
// standby, it tries again after pauses that grow from a fraction of a second
// to five seconds, and differ from process to process.
//
// As the leader it has the lock, and fn runs. Every Options.Check it looks at
// its socket, and every ten seconds, or three times within Options.DeadClient
// if that is sooner, it asks the server whether the lock is there. Two things
// end the leadership: fn returns, and then Lead returns; or it is lost.
//
// Having lost the leadership it cancels fn's ctx, with [ErrLost] as the cause,
// and waits for fn to return. Only then is it a candidate again, so that fn
// never runs twice in one process. A fn that does not return keeps its process
// out of the election, and no other.
//
// What ends a leadership, and when the next one begins:
//
//   - fn returns, ctx ends and fn returns, or the process exits: at once. The
//     server hands the lock to the next in its queue.
//   - The process is killed: at once, too, or within a sixth of DeadClient if a
//     statement runs on the lock's connection. Its kernel closes the socket, and
//     the server ends the session.
//   - An administrator ends the session (pg_terminate_backend), or a proxy cuts the
//     connection: at once. The old leader notices within Check.
//   - The server restarts or fails over: as soon as a candidate reaches it, at
//     most five seconds after it accepts connections. The old leader notices
//     within Check that its socket is closed. If the server's machine has vanished,
//     a candidate that waits for it notices by TCP keepalives, after two and a half
//     minutes where a program leaves them as Go has them. The promotion of a standby does
//     not carry locks over: if the old primary lives on, so does its leader.
//   - The machine loses its power or its network: after DeadClient, when the
//     server has had no sign of life. An old leader that still runs notices
//     within twice the time between two questions: 20 seconds by default, 10
//     before DeadClient is over.
//   - The process is stopped (SIGSTOP, a debugger, a frozen virtual machine):
//     after DeadClient, when its session was silent for that long; the server
//     needs to be PostgreSQL 14 or later for this (idle_session_timeout). The
//     old leader notices within Check of being continued.
//
// So two leaders can overlap, though never as far as the server is concerned:
// an old leader works on until it notices, and fn until it has reacted. With a
// connection that breaks the overlap is at most Check and the time that fn
// needs to return. With a process that was stopped it is the same, from the
// moment when it goes on. With a network that swallows everything, on one side
// longer than on the other, it is at most twice the time between two questions
// and the time that fn needs. No election can do better that does not guard
// the work itself, because a process may be held up between any two of its
// instructions, just after it made sure that it leads. Give the work the
// token:
//
//	err := locker.Lead(ctx, key, func(ctx context.Context) error {
//		token, err := sessionlock.FromContext(ctx).Token(ctx)
//		if err != nil {
//			return err
//		}
//		return postReports(ctx, token) // update … set fence = $1 where fence <= $1
//	})
//
// Tokens of one key grow with each leadership, so a guard of one comparison,
// in the statement that writes, refuses what an old leader still sends. Work
// that only writes to this database can instead take the same key with
// xactlock for every write.
package sessionlock
