//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// terminal is the terminal at stdin. The kernel lets only the foreground group
// read from it, and sends that the signals of the keyboard, so for as long as
// the command runs the foreground is for the command's group. A nil terminal is
// none, and its methods do nothing.
type terminal struct {
	fd    int
	own   int // the group of this process
	eager bool
}

// terminalAt returns the terminal at stdin, if there is one.
//
// Usually the command gets it at once. But at the head of a pipeline it gets
// it only if it wants it: in the group of this process there may be a pager.
func terminalAt(stdin, stdout *os.File) *terminal {
	t := &terminal{fd: int(stdin.Fd()), own: syscall.Getpgrp(), eager: true}
	if _, err := t.foreground(); err != nil {
		return nil
	}
	if info, err := stdout.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		t.eager = false
	}
	return t
}

// foreground returns the group that is in the foreground.
func (t *terminal) foreground() (group int, err error) {
	var g int32
	err = ioctl(t.fd, syscall.TIOCGPGRP, &g)
	return int(g), err
}

func (t *terminal) isOurs() bool {
	group, err := t.foreground()
	return err == nil && group == t.own
}

// begin is called when the command begins.
func (t *terminal) begin(pgid int) {
	if t != nil && t.eager {
		t.give(pgid)
	}
}

// give puts the command's group into the foreground, if that is this process's
// to give.
func (t *terminal) give(pgid int) {
	if t.isOurs() {
		group := int32(pgid)
		_ = ioctl(t.fd, syscall.TIOCSPGRP, &group) // fails if the group is gone
	}
}

// take puts this process's group back into the foreground, if the command's is
// there, or one that is gone: the shell may have somebody else there by now.
//
// This process is in the background, where that is answered with a SIGTTOU.
// Nothing is started afterwards that could inherit that it is ignored.
func (t *terminal) take(pgid int) {
	if t == nil {
		return
	}
	if group, err := t.foreground(); err != nil || group != pgid && !groupGone(group) {
		return
	}
	signal.Ignore(syscall.SIGTTOU)
	own := int32(t.own)
	_ = ioctl(t.fd, syscall.TIOCSPGRP, &own) // fails if the terminal is gone
}

// stopped is called when the command was stopped: by a Ctrl-Z, which withlock
// did not get, or because it wanted the terminal and may have it. If not, a
// shell whose job withlock is must see it stop too. The command goes on when
// the shell continues withlock; the lock is held all the time.
func (t *terminal) stopped(pgid int, by syscall.Signal) {
	if t == nil {
		return
	}
	wants := by == syscall.SIGTTIN || by == syscall.SIGTTOU
	if !wants || !t.isOurs() {
		t.take(pgid)
		suspend()
	}
	t.give(pgid)
	_ = syscall.Kill(-pgid, syscall.SIGCONT) // fails if the group is gone
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
