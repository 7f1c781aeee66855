//go:build unix && !linux

package supervise

import (
	"os"
	"syscall"
)

const canSee = false

// continuedToo: not all systems have wait tell of that.
const continuedToo = 0

func executable() (string, error) { return os.Executable() }

// commandAttributes has a process lead a group of its own.
func commandAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// adoptOrphans does nothing: init reaps orphans.
func adoptOrphans() {}

func sessionOf(int) int { return 0 }

func processes() (all []process, err error) { return nil, errBlind }

func isStopped(int) bool { return false }

// suspendSelf stops this process.
func suspendSelf(bool) { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) } // cannot fail

// inheritedIgnored returns nothing: what the Go runtime tells is known.
func inheritedIgnored() signalSet { return 0 }
