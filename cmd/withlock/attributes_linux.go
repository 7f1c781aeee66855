package main

import "syscall"

// commandAttributes are those of a process that leads a group of its own and
// does not outlive this one. The kernel does that part, and Go looks whether
// this process still lives when it has asked for it. It goes for the command
// itself, not for what that has started: that is the guard's, which however
// may be killed as well.
func commandAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// adoptOrphans makes this process the parent of whatever loses its parent among
// its descendants. Otherwise they would be init's to reap, and in a container
// there is often none that does: its zombies would stay in the group for ever.
func adoptOrphans() {
	const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER of linux/prctl.h
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0)
}
