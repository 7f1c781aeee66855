//go:build unix && !linux

package supervise

import (
	"os"
	"os/signal"
	"syscall"
)

const canSee = false

func executable() (string, error) { return os.Executable() }

// commandAttributes are those of a process that leads a group of its own.
func commandAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// adoptOrphans does nothing: init reaps orphans.
func adoptOrphans() {}

func sessionOf(int) int { return 0 }

func processes() (all []process, ok bool) { return nil, false }

// suspendSelf stops this process, and returns when it is continued.
func suspendSelf(bool) {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if syscall.Kill(os.Getpid(), syscall.SIGSTOP) == nil {
		<-continued
	}
}
