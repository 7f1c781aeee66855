package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// A kind of fault. control says that an error of it is one of this program, as
// it is about what this program has started.
type kind struct {
	name    string
	control bool
	do      fault
}

var (
	silentTerminated = kind{"silent backend terminated", false, terminate(silentSessionSQL)}
	answerLost       = kind{"answer to COMMIT lost", false, loseCommit(0)}
)

// faults are all kinds but promotion, the expensive ones more seldom.
var faults = []weighted[kind]{
	{6, kind{"worker killed", true, killWorker}},
	{6, kind{"worker stopped and continued", true, stopWorker}},
	{8, kind{"backend terminated", false, terminate(someSessionSQL)}},
	{6, silentTerminated},
	{10, kind{"backend cancelled", false, cancelBackend}},
	{3, kind{"backend stopped and continued", false, stopBackend}},
	{1, kind{"backend killed, crash recovery", false, killBackend}},
	{8, kind{"connection cut", false, onLink((*link).cut)}},
	{6, kind{"connection reset", false, onLink((*link).reset)}},
	{2, kind{"all connections of a proxy cut", false, cutAll}},
	{6, kind{"answer torn in the middle", false, onLink(func(l *link) { l.torn.Store(true) })}},
	{6, kind{"connection half closed to the client", false, onLink(func(l *link) { _ = l.client.CloseWrite() })}},
	{6, kind{"connection half closed to the server", false, onLink(func(l *link) { _ = l.server.CloseWrite() })}},
	{6, kind{"connection blackholed, then cut", false, blackhole}},
	{4, kind{"network slow", false, slow}},
	{2, kind{"connections refused", false, refuse}},
	{14, answerLost},
	{5, kind{"answer to COMMIT lost late", false, loseCommit(700 * time.Millisecond)}},
	{3, kind{"PgBouncer killed", true, killBouncer}},
	{3, kind{"PgBouncer stopped and continued", true, stopBouncer}},
	{2, kind{"PostgreSQL restarted, fast", true, restart("fast")}},
	{2, kind{"PostgreSQL restarted, immediate", true, restart("immediate")}},
	{4, kind{"lock table filled", false, fillLocks}},
	{1, kind{"max_connections used up", false, fillConnections}},
}

func killWorker(n *nemesis, _ context.Context) error {
	n.checkHangUps() // those of before
	err := n.crew.replace(n.place())
	n.killed = time.Now()
	return err
}

// stopWorker stops a worker for up to two seconds. One that is killed and
// replaced meanwhile is not there any more to be continued.
func stopWorker(n *nemesis, _ context.Context) error {
	m := n.crew.member(n.place())
	if err := m.signal(syscall.SIGSTOP); err != nil {
		return errSkipped // it has ended by itself, which is reported
	}
	n.later("", n.some(2000), func() error {
		select {
		case <-m.exited:
			return nil
		default:
			return m.signal(syscall.SIGCONT)
		}
	})
	return nil
}

// someSessionSQL chooses a session that holds an advisory lock or waits for one.
const someSessionSQL = `select pid from (select distinct pid from pg_locks where locktype = 'advisory' and pid is not null) one
	order by md5(pid::text || $1) limit 1`

// silentSessionSQL chooses one that holds a lock and has said nothing for a while:
// nothing but the end of its socket can tell its holder.
const silentSessionSQL = `select pid from (select distinct pid from pg_locks join pg_stat_activity using (pid)
		where locktype = 'advisory' and granted and state like 'idle%' and state_change < clock_timestamp() - interval '0.3 s') one
	order by md5(pid::text || $1) limit 1`

// someSession returns the pid that a query chooses.
func (n *nemesis) someSession(ctx context.Context, admin *pgx.Conn, query string) (pid int, err error) {
	err = admin.QueryRow(ctx, query, fmt.Sprint(n.r.Uint32())).Scan(&pid)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errSkipped
	}
	return pid, err
}

// terminate ends a session, and notes when it is gone.
func terminate(query string) fault {
	return func(n *nemesis, ctx context.Context) error {
		return n.administer(ctx, func(admin *pgx.Conn) error {
			pid, err := n.someSession(ctx, admin, query)
			if err != nil {
				return err
			}
			var gone bool // within a second
			if err := admin.QueryRow(ctx, "select pg_terminate_backend($1, 1000)", pid).Scan(&gone); err != nil {
				return err
			}
			if gone {
				n.log.add(event{What: evEnded, PID: pid})
			}
			return nil
		})
	}
}

func cancelBackend(n *nemesis, ctx context.Context) error {
	return n.administer(ctx, func(admin *pgx.Conn) error {
		pid, err := n.someSession(ctx, admin, someSessionSQL)
		if err != nil {
			return err
		}
		_, err = admin.Exec(ctx, "select pg_cancel_backend($1)", pid)
		return err
	})
}

// stopBackend stops the process of a session for up to a second.
func stopBackend(n *nemesis, ctx context.Context) error {
	return n.administer(ctx, func(admin *pgx.Conn) error {
		pid, err := n.someSession(ctx, admin, someSessionSQL)
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		n.later("", n.some(1000), func() error {
			// It may have been killed meanwhile.
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && err != syscall.ESRCH {
				return err
			}
			return nil
		})
		return nil
	})
}

// killBackend kills the process of a session. PostgreSQL then ends all others,
// and recovers from its log.
func killBackend(n *nemesis, ctx context.Context) error {
	return n.administer(ctx, func(admin *pgx.Conn) error {
		pid, err := n.someSession(ctx, admin, someSessionSQL)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	})
}

func onLink(do func(*link)) fault {
	return func(n *nemesis, _ context.Context) error {
		l := n.proxy().some(n.r)
		if l == nil {
			return errSkipped
		}
		do(l)
		return nil
	}
}

func cutAll(n *nemesis, _ context.Context) error {
	for _, l := range n.proxy().fair() {
		l.cut()
	}
	return nil
}

// blackhole swallows all that comes on a connection, from both sides, for up to
// two seconds. Then the connection is cut.
func blackhole(n *nemesis, _ context.Context) error {
	l := n.proxy().some(n.r)
	if l == nil {
		return errSkipped
	}
	l.hole.Store(true)
	n.later("", n.some(2000), func() error {
		l.cut()
		return nil
	})
	return nil
}

func slow(n *nemesis, _ context.Context) error {
	p := n.proxy()
	if !n.take("slow") {
		return errSkipped
	}
	p.delay.Store(int64(time.Millisecond + n.some(50)))
	n.later("slow", n.some(1500), func() error {
		p.delay.Store(0)
		return nil
	})
	return nil
}

func refuse(n *nemesis, _ context.Context) error {
	p := n.proxy()
	if !n.take("refuse") {
		return errSkipped
	}
	p.refusing.Store(true)
	n.later("refuse", n.some(1500), func() error {
		p.refusing.Store(false)
		return nil
	})
	return nil
}

// loseCommit forwards the next COMMIT, and closes the client's connection
// without the answer.
func loseCommit(hang time.Duration) fault {
	return func(n *nemesis, ctx context.Context) error {
		trap := &commitTrap{hang: hang, sprung: make(chan struct{})}
		p := n.proxy()
		p.commit.Store(trap)
		select {
		case <-trap.sprung:
			return nil
		case <-time.After(2 * time.Second):
			p.commit.CompareAndSwap(trap, nil)
			return errSkipped
		}
	}
}

func killBouncer(n *nemesis, ctx context.Context) error {
	if !n.take("PgBouncer") {
		return errSkipped
	}
	err := n.signalBouncer(os.Kill)
	n.later("PgBouncer", n.some(1000), n.restartBouncer)
	return skipCrashed(err)
}

// restartBouncer returns when PgBouncer reaches the server, which may be away.
func (n *nemesis) restartBouncer() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return untilDone(ctx, func() error { return n.bouncer.Restart(ctx) })
}

// untilDone starts something again until that works, or ctx ends: another
// connection may have got its port meanwhile.
func untilDone(ctx context.Context, start func() error) error {
	for {
		err := start()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// errCrashed is a PgBouncer that has ended without a fault.
var errCrashed = errors.New("PgBouncer has ended by itself")

// lostWhileCancelled matches the end of a PgBouncer 1.18 that loses a connection
// to the server, or is told by the server that it is about to, while it passes on
// a request to cancel what runs there. That is the fault's doing: to cancel a
// statement is a client's right.
var lostWhileCancelled = regexp.MustCompile(`(disconnect_server\(\): bad server|server_proto: server in bad) state: 11`)

// signalBouncer sends PgBouncer a signal. It returns errCrashed, and reports a
// violation, if PgBouncer has ended by itself: nothing that the library sends may
// do that to it. The caller has taken PgBouncer, and starts it again.
func (n *nemesis) signalBouncer(signal os.Signal) error {
	err := n.bouncer.Signal(signal)
	switch {
	case !errors.Is(err, os.ErrProcessDone):
		return err
	case lostWhileCancelled.MatchString(err.Error()):
		n.count("PgBouncer 1.18 crashed, of a connection lost while cancelling")
	default:
		n.log.violation(0, 0, "PgBouncer has ended by itself: %v", err)
	}
	return errCrashed
}

// skipCrashed makes errCrashed a fault that was skipped.
func skipCrashed(err error) error {
	if errors.Is(err, errCrashed) {
		return errSkipped
	}
	return err
}

func stopBouncer(n *nemesis, _ context.Context) error {
	if !n.take("PgBouncer") {
		return errSkipped
	}
	if err := n.signalBouncer(syscall.SIGSTOP); err != nil {
		n.later("PgBouncer", 0, n.restartBouncer)
		return skipCrashed(err)
	}
	n.later("PgBouncer", n.some(1000), func() error {
		err := n.signalBouncer(syscall.SIGCONT)
		if errors.Is(err, errCrashed) {
			err = n.restartBouncer()
		}
		return err
	})
	return nil
}

func restart(mode string) fault {
	return func(n *nemesis, ctx context.Context) error {
		return n.exclusively(func() error {
			return untilDone(ctx, func() error { return n.server().Control(ctx, "restart", "-m", mode) })
		})
	}
}

// fillLocks takes locks until the server has no room for one more, and gives
// them back.
func fillLocks(n *nemesis, ctx context.Context) error {
	return n.administer(ctx, func(admin *pgx.Conn) error {
		// Locks of a session outlive the error.
		_, err := admin.Exec(ctx, "select pg_advisory_lock(9, n) from generate_series(1, 1000000) n")
		if err == nil {
			return fmt.Errorf("the lock table has room for a million locks")
		}
		time.Sleep(n.some(700))
		_, err = admin.Exec(ctx, "select pg_advisory_unlock_all()")
		return err
	})
}

// fillConnections connects until the server accepts no more, and goes again.
func fillConnections(n *nemesis, ctx context.Context) error {
	var conns []*pgx.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close(ctx)
		}
	}()
	for range maxConnections {
		conn, err := pgx.Connect(ctx, n.server().DSN())
		if err != nil {
			break
		}
		conns = append(conns, conn)
	}
	if len(conns) == 0 {
		return errSkipped
	}
	time.Sleep(n.some(500))
	return nil
}
