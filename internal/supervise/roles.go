//go:build unix

package supervise

import (
	"os"
	"strconv"
	"syscall"
)

// The program starts itself in more roles, which its first argument tells. The
// arguments after it are descriptors, a file, and the arguments to execute it
// with.
const (
	roleGuard      = "--internal-guard"
	roleGatedGuard = "--internal-guard-at-gate" // the command waits at a gate
	roleGate       = "--internal-gate"
)

// Main plays another role, if the program was started in one, and ends the
// process. A program that uses this package calls it first.
//
// What was ignored when the process began is ignored from then on.
func Main() {
	keepIgnored()
	if len(os.Args) < 5 {
		return
	}
	first, firstErr := strconv.Atoi(os.Args[2])
	second, secondErr := strconv.Atoi(os.Args[3])
	if firstErr != nil || secondErr != nil {
		return
	}
	switch os.Args[1] {
	case roleGuard, roleGatedGuard:
		guard(first, second, os.Args[1] == roleGatedGuard, os.Args[4], os.Args[5:])
	case roleGate:
		gate(first, os.Args[4], os.Args[5:])
	default:
		return
	}
	os.Exit(0)
}

// forkSelf starts this program in another role. Descriptors that are not closed
// on exec stay open in it.
func forkSelf(args []string, attr *syscall.ProcAttr) (pid int, err error) {
	self, err := executable()
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(self, args, attr)
}
