//go:build unix

package main

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// command is a command that was started. It leads a process group, which holds
// all that it starts, but for what leaves the group on purpose.
type command struct {
	pgid     int
	terminal *terminal     // nil where there is none
	gone     chan struct{} // closed when the group is gone
	status   syscall.WaitStatus
}

// start starts the command, and a guard over it.
//
// The command's process waits behind a gate until the guard knows its group
// and the group has the terminal. Without it there would be a moment in which
// withlock could be killed and what the command has started by then live on.
func (p *program) start(lock *sessionlock.Lock, path string, env []string) (*command, error) {
	adoptOrphans()
	c := &command{terminal: terminalAt(p.stdin, p.stdout), gone: make(chan struct{})}
	guard, err := postGuard(lock)
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// A parent-death signal comes when the thread ends that has started the
		// process. This one is for nothing else, and ends with the goroutine.
		runtime.LockOSThread()
		gate, err := p.fork(c, path, env)
		if err == nil {
			guard.watch(c.pgid)
			c.terminal.begin(c.pgid)
			err = gate.open()
		}
		started <- err
		if c.pgid == 0 {
			guard.dismiss()
			return
		}
		c.reap()
		guard.dismiss()
		c.terminal.take(c.pgid)
		close(c.gone)
	}()
	if err := <-started; err != nil {
		if c.pgid != 0 {
			<-c.gone
		}
		return nil, err
	}
	return c, nil
}

// fork makes the process that is to be the command, and the gate that it
// waits at.
func (p *program) fork(c *command, path string, env []string) (*gate, error) {
	gate, child, err := newGate()
	if err != nil {
		return nil, err
	}
	defer syscall.Close(child)
	pid, err := forkSelf(gateArgs(child, path, p.command), &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{p.stdin.Fd(), p.stdout.Fd(), p.stderr.Fd()},
		Sys:   commandAttributes(),
	})
	if err != nil {
		gate.close()
		return nil, err
	}
	c.pgid = pid
	return gate, nil
}

// signal sends a signal to the group. One that is stopped would see it only
// when somebody continues it.
func (c *command) signal(signal syscall.Signal) {
	_ = syscall.Kill(-c.pgid, signal) // fails if the group is gone, or not ours to signal
	_ = syscall.Kill(-c.pgid, syscall.SIGCONT)
}

// reap waits for the end of everybody in the group. Orphans of it are children
// of this process on Linux, where adoptOrphans sees to that; elsewhere, and
// where a member has a parent outside of the group, they are looked for.
func (c *command) reap() {
	const pause = 10 * time.Millisecond
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-c.pgid, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // no child is in the group
			if groupGone(c.pgid) {
				return
			}
			time.Sleep(pause)
		case pid != c.pgid:
		case status.Stopped():
			c.terminal.stopped(c.pgid, status.StopSignal())
		default:
			c.status = status
		}
	}
}

// groupGone reports whether nobody is left in a process group. A member that
// may not be signalled is a member.
func groupGone(pgid int) bool {
	return errors.Is(syscall.Kill(-pgid, 0), syscall.ESRCH)
}

// forkSelf starts this program as something else: see asHelper. Descriptors
// that are not closed on exec stay open in it.
func forkSelf(args []string, attr *syscall.ProcAttr) (pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(self, args, attr)
}
