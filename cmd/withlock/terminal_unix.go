//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// terminal is the terminal that this process is in the foreground of. The
// kernel lets only the foreground group read from it and sends it the signals
// of the keyboard, so for as long as the command runs that is the command's
// group. A nil terminal is none, and its methods do nothing.
type terminal struct {
	fd  int
	own int // the group of this process
}

// foreground returns the terminal at stdin. There is none to hand over where
// this process is in the background, nor at the head of a pipeline, whose other
// members are in the same group as this process: a pager would lose the
// terminal.
func foreground(stdin, stdout *os.File) *terminal {
	t := &terminal{fd: int(stdin.Fd()), own: syscall.Getpgrp()}
	if info, err := stdout.Stat(); err != nil || info.Mode()&os.ModeNamedPipe != 0 {
		return nil
	}
	if !t.isOurs() {
		return nil
	}
	return t
}

// isOurs reports whether this process's group is in the foreground.
func (t *terminal) isOurs() bool {
	var group int32
	return ioctl(t.fd, syscall.TIOCGPGRP, &group) == nil && int(group) == t.own
}

// give puts the command's group into the foreground, if it is this process's
// to give.
func (t *terminal) give(pgid int) {
	if t != nil && t.isOurs() {
		group := int32(pgid)
		_ = ioctl(t.fd, syscall.TIOCSPGRP, &group) // fails if the group is gone
	}
}

// take puts this process's group back into the foreground, from where it is
// now: in the background, where that is answered with a SIGTTOU. Nothing is
// started afterwards that could inherit that it is ignored.
func (t *terminal) take() {
	if t != nil {
		signal.Ignore(syscall.SIGTTOU)
		group := int32(t.own)
		_ = ioctl(t.fd, syscall.TIOCSPGRP, &group) // fails if the terminal is gone
	}
}

// stopped is called when the command was stopped: by a Ctrl-Z, which withlock
// did not get, or because it wanted the terminal. A shell whose job withlock
// is must see it stop too. The command goes on when the shell continues
// withlock; the lock is held all the time.
func (t *terminal) stopped(c *command, by syscall.Signal) {
	if t == nil {
		return
	}
	wants := by == syscall.SIGTTIN || by == syscall.SIGTTOU
	if !wants || !t.isOurs() { // the shell may have put withlock into the foreground since
		t.take()
		suspend()
	}
	t.give(c.pgid)
	_ = syscall.Kill(-c.pgid, syscall.SIGCONT) // fails if the group is gone
}

// suspend stops this process and returns when it is continued.
func suspend() {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if syscall.Kill(os.Getpid(), syscall.SIGSTOP) == nil {
		<-continued
	}
}

func ioctl(fd int, request uintptr, group *int32) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(group))); errno != 0 {
		return errno
	}
	return nil
}
