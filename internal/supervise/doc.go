// Package supervise runs a command and ends it together with everything that it
// has started.
//
// The work is the command and every process that descends from it, whatever
// group or session it is in, as long as its parents live. An orphan (its parent
// has ended) stays in the work while it is in a session of the work. An orphan
// in a session of its own is a daemon that has left on purpose: it is let go,
// whenever it calls setsid.
//
// Two processes see to that:
//
//	caller ── guard ── command ── …
//
// The guard is the command's parent, and orphans become its children
// (PR_SET_CHILD_SUBREAPER). So the work is the tree below the guard, which
// reaps all of it. It is posted before the command is to begin. The caller
// sends it orders, and it sends reports. If the caller is killed, the guard
// kills the work, and only then closes the descriptor that it keeps for the
// caller (see Guard.Start). If the guard is killed, the kernel kills the
// command, the rest of the work becomes the caller's children, and the caller
// kills them in the same way.
//
// To stop is to signal all of the work. From then on a process that becomes an
// orphan does not leave, unless its session is one of orphans that had left before.
//
// Without a /proc of its own namespace of processes, and on systems other than
// Linux, the work is the process group of the command.
package supervise
