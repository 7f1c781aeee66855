//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// guard is a process which, if this one is killed, kills the command with all
// its process group. It has a session of its own, so that what is meant for
// this process's group or terminal does not reach it.
//
// It also keeps the lock until that is done: it has the socket of the session
// open, and the server does not see this process's end before its own.
type guard struct {
	pid  int
	pipe *os.File // the guard reads orders; their end is that of this process
}

// Orders to a guard.
const (
	orderWatch   = "watch %d\n"
	orderDismiss = "dismiss\n"
)

// postGuard starts a guard for a command that is not there yet.
func postGuard(lock *sessionlock.Lock) (*guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return nil, err
	}
	defer null.Close()
	inherited, err := syscall.Dup(int(r.Fd())) // not closed on exec
	if err != nil {
		w.Close()
		return nil, err
	}
	defer syscall.Close(inherited)
	if socket, ok := socketOf(lock); ok {
		defer syscall.Close(socket)
	}
	pid, err := forkSelf(helperArgs(roleGuard, inherited), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		w.Close()
		return nil, err
	}
	return &guard{pid, w}, nil
}

// socketOf returns a copy of the socket of the session that holds lock, which
// is not closed on exec. A connection that hides its socket has none, and the
// lock is then free a moment before the command is killed.
func socketOf(lock *sessionlock.Lock) (socket int, ok bool) {
	_ = lock.Conn().Raw(func(driverConn any) error { // without it there is none
		c, isStdlib := driverConn.(*stdlib.Conn)
		if !isStdlib {
			return nil
		}
		conn := c.Conn().PgConn().Conn()
		if tls, encrypted := conn.(interface{ NetConn() net.Conn }); encrypted {
			conn = tls.NetConn()
		}
		if plain, has := conn.(syscall.Conn); has {
			socket, ok = dup(plain)
		}
		return nil
	})
	return socket, ok
}

func dup(conn syscall.Conn) (descriptor int, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	controlErr := raw.Control(func(fd uintptr) { descriptor, err = syscall.Dup(int(fd)) })
	return descriptor, controlErr == nil && err == nil
}

// watch tells the guard which group to kill. A guard that is gone cannot be
// told; the command runs all the same.
func (g *guard) watch(pgid int) { _, _ = fmt.Fprintf(g.pipe, orderWatch, pgid) }

// dismiss ends the guard, and returns when it is gone.
func (g *guard) dismiss() {
	_, _ = io.WriteString(g.pipe, orderDismiss) // as above
	_ = g.pipe.Close()
	for {
		if _, err := syscall.Wait4(g.pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// guardMain is the guard.
func guardMain(descriptor int) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	orders, _ := io.ReadAll(os.NewFile(uintptr(descriptor), "orders")) // an error ends them too
	var pgid int
	var last string
	n, _ := fmt.Sscanf(string(orders), orderWatch+"%s", &pgid, &last)
	if n != 1 { // dismissed, or withlock ended before it had a command
		return 0
	}
	const patience = 5 * time.Second // zombies stay in a group that nobody reaps
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		_ = syscall.Kill(-pgid, syscall.SIGKILL) // fails when it is gone
		if groupGone(pgid) {
			break
		}
	}
	return 0
}
