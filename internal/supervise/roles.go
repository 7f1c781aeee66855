//go:build unix

package supervise

import (
	"strconv"
	"syscall"
)

// The program starts its own executable in more roles, which the first argument
// tells. The arguments after it are the ignored signals, a descriptor, a file,
// and the arguments to execute it with.
const (
	roleGuard = "--internal-guard"
	roleGate  = "--internal-gate"
)

func parseRole(args []string) (role string, numbers [2]int, ok bool) {
	if len(args) < 5 || args[1] != roleGuard && args[1] != roleGate {
		return "", numbers, false
	}
	for i := range numbers {
		n, err := strconv.Atoi(args[2+i])
		if err != nil {
			return "", numbers, false
		}
		numbers[i] = n
	}
	return args[1], numbers, true
}

// roleArgs returns the arguments of a process in another role.
func roleArgs(role string, link int, path string, args []string) []string {
	return append([]string{"withlock", role, strconv.Itoa(int(ignored)), strconv.Itoa(link), path}, args...)
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
