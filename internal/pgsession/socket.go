package pgsession

import (
	"net"
	"syscall"
)

// SocketOf returns the socket under conn, and under TLS where there is TLS, unless
// conn hides it.
func SocketOf(conn net.Conn) (syscall.Conn, bool) {
	for {
		switch c := conn.(type) {
		case syscall.Conn:
			return c, true
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil, false
		}
	}
}
