//go:build unix

package supervise

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// terminal is the controlling terminal. The kernel lets only the foreground
// group read from it, and sends that the signals of the keyboard. A nil
// terminal is none, and its methods do nothing.
type terminal struct {
	fd  int
	own int // the group of this process

	mu    sync.Mutex
	eager bool // guarded by mu: the command is to have it whenever this process may give it
}

// terminalAt returns the terminal of this process, if it has one.
//
// The command is put into the foreground at once where its stdin is the
// terminal. But at the head of a pipeline, or with other input, it gets the
// terminal only if it wants it: in the group of this process there may be a
// pager.
func terminalAt(stdin, stdout *os.File) *terminal {
	fd, err := syscall.Open("/dev/tty", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	t := &terminal{fd: fd, own: syscall.Getpgrp()}
	var group int32
	info, err := stdout.Stat()
	t.eager = ioctl(int(stdin.Fd()), syscall.TIOCGPGRP, &group) == nil &&
		(err != nil || info.Mode()&os.ModeNamedPipe == 0)
	return t
}

// foreground returns the group that is in the foreground, 0 if there is none.
func (t *terminal) foreground() int {
	var group int32
	if t == nil || ioctl(t.fd, syscall.TIOCGPGRP, &group) != nil {
		return 0
	}
	return int(group)
}

// isOf reports whether a group is in the foreground.
func (t *terminal) isOf(group int) bool { return t != nil && t.foreground() == group }

// isOurs reports whether the group of this process is in the foreground.
func (t *terminal) isOurs() bool { return t != nil && t.isOf(t.own) }

// wanted is called when the command wants the terminal.
func (t *terminal) wanted() {
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.eager = true
	}
}

// commandEnded is called when the command has ended, and has no use for the terminal
// any more. What it has left behind in its group may ignore Ctrl-C, which would not
// reach this process.
func (t *terminal) commandEnded(group int) {
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.eager = false
		t.take(group)
	}
}

// give puts a group into the foreground, if it is to have that and it is this
// process's to give.
func (t *terminal) give(group int) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.eager && t.isOurs() {
		g := int32(group)
		_ = ioctl(t.fd, syscall.TIOCSPGRP, &g) // fails if the group is gone
	}
}

// take puts this process's group back into the foreground, if the command's is
// there, or one that is gone: the shell may have another one there by now.
//
// This process is in the background, where that is answered with a SIGTTOU.
// Nothing is started afterwards that could inherit that it is ignored.
func (t *terminal) take(group int) {
	if t == nil {
		return
	}
	if front := t.foreground(); front == 0 || front != group && !groupGone(front) {
		return
	}
	signal.Ignore(syscall.SIGTTOU)
	own := int32(t.own)
	_ = ioctl(t.fd, syscall.TIOCSPGRP, &own) // fails if the terminal is gone
}

// Suspend stops this process, as Ctrl-Z would if it were not caught. It returns when
// that is continued, or at once where no shell could continue it.
func Suspend() { suspend(false) }

// suspend stops this process, or its whole group. It returns when it has been
// continued, or false if it was not stopped.
func suspend(group bool) (continued bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCONT)
	defer signal.Stop(signals)
	suspendSelf(group)
	select {
	case <-signals:
		return true
	case <-time.After(100 * time.Millisecond): // more than the runtime takes to tell
		return false
	}
}

func ioctl(fd int, request uintptr, group *int32) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(group))); errno != 0 {
		return errno
	}
	return nil
}
