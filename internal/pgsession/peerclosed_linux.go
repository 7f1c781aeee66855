package pgsession

import "syscall"

// PeerClosed reports whether the other side has closed the connection, or the
// kernel has given it up, without reading from it, and whether that is known: it
// is not for a connection that hides its socket.
//
// It may be called whatever else is done with the connection. EPOLLRDHUP is there even
// if the other side sent something before it hung up, which was not read
// yet. Reading with MSG_PEEK, the portable way, would not see beyond that.
func (s *Session) PeerClosed() (closed, known bool) {
	socket, ok := SocketOf(s.pg.Conn())
	if !ok {
		return false, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true, true
	}
	err = raw.Control(func(fd uintptr) { closed, known = epoll(int(fd)) })
	if err != nil {
		return true, true // closed on this side
	}
	return closed, known
}

// epoll asks the kernel, without waiting. Once a second is not often enough to
// keep the descriptor.
func epoll(fd int) (closed, known bool) {
	instance, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false, false
	}
	defer syscall.Close(instance)
	// EPOLLERR and EPOLLHUP need not be asked for.
	event := syscall.EpollEvent{Events: syscall.EPOLLRDHUP}
	if err := syscall.EpollCtl(instance, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return false, false
	}
	for {
		n, err := syscall.EpollWait(instance, make([]syscall.EpollEvent, 1), 0)
		if err == syscall.EINTR {
			continue
		}
		return n > 0, err == nil
	}
}
