//go:build unix

package supervise

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// signalSet has a bit for each signal.
type signalSet uint32

// ignored are the signals that were ignored when the program began.
var ignored signalSet

// keepIgnored ignores them again. The Go runtime keeps that for SIGHUP and
// SIGINT only.
func keepIgnored() {
	for s := syscall.Signal(1); s < 32; s++ {
		if ignored>>s&1 == 1 && s != syscall.SIGCHLD && s != syscall.SIGURG {
			signal.Ignore(s)
		}
	}
}

// DieOf ends this process by a signal, with its whole group if that is said. It
// returns where the signal is ignored, as it is by the first process of a
// container.
func DieOf(s syscall.Signal, group bool) {
	if signal.Ignored(s) || os.Getpid() == 1 {
		return
	}
	signal.Reset(s)
	pid := os.Getpid()
	if group {
		pid = 0
	}
	if syscall.Kill(pid, s) == nil {
		time.Sleep(time.Second) // more than it takes to arrive
	}
}
