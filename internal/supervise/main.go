//go:build unix

package supervise

import "os"

// Main plays another role, if the program was started in one, and ends the
// process. A program that uses this package calls it first.
//
// What was ignored when the process began is ignored from then on.
func Main() {
	role, numbers, ok := parseRole(os.Args)
	if !ok {
		ignored = inheritedIgnored()
		keepIgnored()
		return
	}
	ignored = signalSet(numbers[0])
	keepIgnored()
	path, args := os.Args[4], os.Args[5:]
	if role == roleGate {
		gate(numbers[1], path, args)
	} else {
		guard(numbers[1], path, args)
	}
	os.Exit(0)
}
