//go:build unix

package main

import "strconv"

// The program starts itself in two more roles, which these first arguments
// tell. Both take a descriptor as the second one.
const (
	roleGate  = "--internal-gate"
	roleGuard = "--internal-guard"
)

// asHelper plays one of the other roles, if args say so.
func asHelper(args []string) (code int, ok bool) {
	if len(args) < 3 || args[1] != roleGate && args[1] != roleGuard {
		return 0, false
	}
	descriptor, err := strconv.Atoi(args[2])
	if err != nil {
		return 0, false
	}
	if args[1] == roleGuard {
		return guardMain(descriptor), true
	}
	return gateMain(descriptor, args[3:]), true
}

func helperArgs(role string, descriptor int, more ...string) []string {
	return append([]string{"withlock", role, strconv.Itoa(descriptor)}, more...)
}
