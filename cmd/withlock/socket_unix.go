//go:build unix

package main

import (
	"syscall"

	"github.com/pgadvisory/pgadvisory/internal/pgsession"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// socketOf returns a copy of the socket of the session that holds lock: as long
// as it is open, the server does not see the end of the session. A connection
// that hides its socket has none, -1, and its lock is then free a moment before
// the command is killed.
func socketOf(lock *sessionlock.Lock) int {
	socket := -1
	_ = lock.Conn().Raw(func(driverConn any) error { // without it there is none
		if conn, ok := pgsession.SocketOf(pgsession.Unwrap(driverConn).PG().Conn()); ok {
			socket = dup(conn)
		}
		return nil
	})
	return socket
}

func dup(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1
	}
	copied := -1
	controlErr := raw.Control(func(fd uintptr) { copied, err = syscall.Dup(int(fd)) })
	if controlErr != nil || err != nil {
		return -1
	}
	syscall.CloseOnExec(copied)
	return copied
}
