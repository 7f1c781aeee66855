//go:build unix

package supervise

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// guard starts the command when it is told to, and returns when the work is
// over, or the caller is gone before. What it keeps for the caller, the kernel
// closes when this process ends.
func guard(linkFD int, path string, args []string) {
	// A parent-death signal comes when the thread ends that has started the
	// process. This one is the process's first, and stays.
	runtime.LockOSThread()
	// The Go runtime opens a file for its first timer, and ends the process if there is
	// none to be had. So the first is this one, before there is any work.
	time.AfterFunc(time.Hour, func() {}).Stop()
	caller := linkAt(linkFD)
	outliveSignals()
	adoptOrphans()
	kind, env, _, err := caller.receiveStart()
	if err != nil {
		return
	}
	g := &starter{caller: caller, path: path, args: args, env: env}
	if !g.start(kind == startGated) {
		return
	}
	orders := make(chan order)
	go func() {
		defer close(orders)
		for {
			kind, value, err := caller.receive()
			if err != nil {
				return
			}
			if kind == openGate {
				g.open()
				continue
			}
			orders <- order{kind, value}
		}
	}()
	newKeeper(g.pid, g.report).run(orders)
	g.over()
}

// report tells the caller. If the command goes on so does a caller that was stopped
// with it: the lock could be lost, and only the caller would notice.
func (g *starter) report(kind, value int) {
	if parent := os.Getppid(); kind == continued && isStopped(parent) {
		_ = syscall.Kill(parent, syscall.SIGCONT) // fails if it has ended
	}
	g.caller.send(kind, value)
}

// outliveSignals keeps the guard alive when the signals that stop the work are
// sent to each process, as systemd does. The command starts with the default
// actions. What was ignored stays so.
func outliveSignals() {
	nobody := make(chan os.Signal, 1)
	for s := syscall.Signal(1); s < 32; s++ {
		switch s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPROF:
		default:
			if !signal.Ignored(s) {
				signal.Notify(nobody, s)
			}
		}
	}
}

// starter makes the process that is to be the command.
type starter struct {
	caller *link
	path   string
	args   []string
	env    []string
	pid    int
	gate   *link

	opening sync.Mutex // held until the caller has heard what came of opening the gate
}

// start reports whether there is a process, and to the caller what it is.
func (g *starter) start(gated bool) bool {
	attr := &syscall.ProcAttr{Env: g.env, Files: []uintptr{0, 1, 2}, Sys: commandAttributes()}
	report, err := running, error(nil)
	if gated {
		report = forked
		g.pid, err = g.fork(attr)
	} else {
		g.pid, err = syscall.ForkExec(g.path, g.args, attr)
	}
	if err != nil {
		errno, _ := err.(syscall.Errno)
		g.caller.send(failed, int(errno))
		return false
	}
	g.caller.send(report, g.pid)
	return true
}

// fork makes a process that waits at a gate: it becomes the command when it is
// told that the terminal is its own. A command that looks at the terminal first
// thing must be in the foreground.
func (g *starter) fork(attr *syscall.ProcAttr) (pid int, err error) {
	ours, theirs, err := newLink()
	if err != nil {
		return 0, err
	}
	defer syscall.Close(theirs)
	if pid, err = forkSelf(roleArgs(roleGate, theirs, g.path, g.args), attr); err != nil {
		ours.close()
	}
	g.gate = ours
	return pid, err
}

// open lets the process become the command, and tells the caller whether it has.
func (g *starter) open() {
	g.opening.Lock()
	defer g.opening.Unlock()
	defer g.gate.close()
	g.gate.send(openGate, 0)
	if kind, errno, err := g.gate.receive(); err == nil && kind == failed {
		g.caller.send(failed, errno)
		return
	}
	g.caller.send(running, g.pid)
}

// over tells the caller that the work is over. A command that is quick can be so
// before the caller has heard that it was executed.
func (g *starter) over() {
	g.opening.Lock()
	defer g.opening.Unlock()
	g.caller.send(workOver, 0)
}

// gate waits until it is opened, and executes the command. It returns if the
// guard is gone, or if it has told the guard why the command is not executed.
func gate(linkFD int, path string, args []string) {
	guard := linkAt(linkFD)
	if _, _, err := guard.receive(); err != nil {
		return
	}
	err := syscall.Exec(path, args, os.Environ())
	errno, _ := err.(syscall.Errno)
	guard.send(failed, int(errno))
}
