//go:build unix

package supervise

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// keepIgnored ignores again what was ignored when the program began. The Go
// runtime keeps that for SIGHUP and SIGINT only.
func keepIgnored() {}

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
