//go:build unix

package supervise

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Command is what Start executes.
type Command struct {
	Path                  string
	Args                  []string
	Stdin, Stdout, Stderr *os.File
}

// Guard is a guard at its post: a process that waits for the order to start a
// command.
type Guard struct {
	command     Command
	pid         int
	link        *link
	stopReaping func()
	gone        bool // it has ended and was reaped; known when stopReaping has returned
}

// Work is a command that was started, and all that descends from it.
type Work struct {
	pid, guard int
	link       *link
	terminal   *terminal // nil where there is none
	done       chan struct{}
	resumes    atomic.Int32 // orders to resume the command that were sent

	childrenMu sync.Mutex
	strangers  map[int]bool // guarded by childrenMu: children of this process that are none of the work
	guardGone  bool         // guarded by childrenMu: it was reaped, and another process may have its pid

	// Written before done is closed.
	status      syscall.WaitStatus
	interrupted bool
}

var errNoGuard = errors.New("its guard has ended")

// Post starts the guard of a command that is to be executed later: a process
// takes its time to begin. The guard ends if this process does.
//
// From now on until Dismiss returns, or the work is over, all children of this process
// are reaped: the first process of a container gets those of others.
func Post(c Command) (*Guard, error) {
	ours, theirs, err := newLink()
	if err != nil {
		return nil, err
	}
	defer syscall.Close(theirs)
	pid, err := forkSelf(roleArgs(roleGuard, theirs, c.Path, c.Args), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{c.Stdin.Fd(), c.Stdout.Fd(), c.Stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true}, // a signal to the caller's group does not reach it
	})
	if err != nil {
		ours.close()
		return nil, err
	}
	g := &Guard{command: c, pid: pid, link: ours}
	g.stopReaping = reapChildren(func(child int) { g.gone = g.gone || child == pid })
	return g, nil
}

// Dismiss ends the guard. The command is not executed.
func (g *Guard) Dismiss() {
	g.link.close()
	g.stopReaping()
	if !g.gone { // or else another process may have its pid
		_ = syscall.Kill(g.pid, syscall.SIGKILL) // it may be stopped; it has no children yet
		awaitChild(g.pid)
	}
}

// awaitChild waits until a child has ended, unless it was reaped before.
func awaitChild(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// reapChildren reaps the children of this process that end, until it is stopped, and
// tells which.
func reapChildren(ended func(pid int)) (stop func()) {
	children := make(chan os.Signal, 1)
	children <- syscall.SIGCHLD // some may have ended
	signal.Notify(children, syscall.SIGCHLD)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for range children {
			for pid, err := 1, error(nil); pid > 0 || errors.Is(err, syscall.EINTR); {
				pid, err = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				ended(pid)
			}
		}
	}()
	return func() {
		signal.Stop(children)
		close(children)
		<-stopped
	}
}

// Reap reaps the children of this process that end, until it is stopped: what the work
// has let go is among them.
func Reap() (stop func()) { return reapChildren(func(int) {}) }

// Start executes the command in a process group of its own, with this
// environment. After an error no process of it is left, nor the guard; a
// syscall.Errno is what the system says about the file.
//
// keep is a descriptor, or -1, that the guard keeps open until the work is over,
// even if this process is killed. The command does not inherit it.
//
// Only one Work can run at a time. The children that this process had before, and those
// that it then names to Spare, are none of the work.
func (g *Guard) Start(env []string, keep int) (*Work, error) {
	w := &Work{guard: g.pid, link: g.link, terminal: terminalAt(g.command.Stdin, g.command.Stdout), done: make(chan struct{})}
	g.stopReaping()
	w.guardGone = g.gone
	w.strangers = children()
	delete(w.strangers, g.pid)
	adoptOrphans()
	kind := start
	if w.terminal != nil && w.terminal.eager {
		kind = startGated
	}
	g.link.sendStart(kind, env, keep)
	started := make(chan error, 1)
	go w.follow(started)
	for {
		select {
		case err := <-started:
			if err != nil {
				<-w.done
				return nil, err
			}
			return w, nil
		case <-time.After(100 * time.Millisecond): // longer than a guard takes to tell
			w.wakeGuard()
		}
	}
}

// wakeGuard continues the guard, which may have been stopped.
func (w *Work) wakeGuard() {
	w.childrenMu.Lock()
	defer w.childrenMu.Unlock()
	if !w.guardGone {
		_ = syscall.Kill(w.guard, syscall.SIGCONT) // fails if it has just ended
	}
}

// Spare has a child of this process, which it has started since, be none of the work.
func (w *Work) Spare(pid int) {
	w.childrenMu.Lock()
	defer w.childrenMu.Unlock()
	w.strangers[pid] = true
}

// forget notes that a child has ended: another process may have its pid.
func (w *Work) forget(pid int) {
	w.childrenMu.Lock()
	defer w.childrenMu.Unlock()
	delete(w.strangers, pid)
	w.guardGone = w.guardGone || pid == w.guard
}

func (w *Work) isStranger(pid int) bool {
	w.childrenMu.Lock()
	defer w.childrenMu.Unlock()
	return w.strangers[pid]
}

// children returns the children of this process, as far as they are seen.
func children() map[int]bool {
	ours := map[int]bool{}
	all, _ := processes()
	for _, p := range all {
		if p.parent == os.Getpid() {
			ours[p.pid] = true
		}
	}
	return ours
}

// Done is closed when the work is over: no process of it is left.
func (w *Work) Done() <-chan struct{} { return w.done }

// Status returns how the command ended. It is known when Done is closed.
func (w *Work) Status() syscall.WaitStatus { return w.status }

// Interrupted reports whether the command was in the foreground of the terminal
// and died of SIGINT. Had the caller's process group been there, it would have
// been sent SIGINT as well. It is known when Done is closed.
func (w *Work) Interrupted() bool { return w.interrupted }

// Signal passes a signal on. It returns at once, and does nothing when the work
// is over.
//
// What asks to end (SIGTERM, SIGINT, SIGQUIT, SIGHUP) goes to all of the work,
// and so does SIGKILL, until the work is over. What a terminal would send to
// the foreground goes to the command's process group. Everything else goes to
// the command alone: a program that does not expect SIGUSR1 dies of it.
//
// The caller has to pass on SIGCONT: after Ctrl-Z and fg the command waits for
// that.
func (w *Work) Signal(s syscall.Signal) {
	switch s {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGKILL:
		w.order(signalAll, s)
		w.wakeGuard()
	case syscall.SIGCONT:
		w.terminal.give(w.pid) // the shell may have put the caller into the foreground
		w.order(signalGroup, s)
	case syscall.SIGTSTP, syscall.SIGWINCH:
		w.order(signalGroup, s)
	default:
		w.order(signalCommand, s)
	}
}

func (w *Work) order(kind int, s syscall.Signal) {
	if (order{kind, int(s)}).resumes() {
		w.resumes.Add(1)
	}
	w.link.send(kind, int(s))
}

// follow receives the guard's reports until the work is over. It sends the
// result of starting the command to started.
func (w *Work) follow(started chan<- error) {
	k := newKeeper(0, func(int, int) {})
	stopReaping := reapChildren(w.forget)
	over := false
	for {
		kind, value, err := w.link.receive()
		if err != nil {
			break
		}
		switch kind {
		case forked:
			w.pid = value
			w.terminal.give(w.pid)
			w.link.send(openGate, 0)
		case running:
			w.pid = value
			started <- nil
		case failed:
			over = true // there was none
			started <- syscall.Errno(value)
		case stopped:
			// An order to resume it may be on its way. Then the caller would stop alone.
			if by, resumes := decodeStop(value); resumes == int(w.resumes.Load()) {
				w.stopped(by)
			}
		case ended:
			k.ended, k.status = true, syscall.WaitStatus(value)
			w.interrupted = k.status.Signaled() && k.status.Signal() == syscall.SIGINT && w.terminal.isOf(w.pid)
			w.terminal.commandEnded(w.pid)
		case workOver:
			over = true
		}
	}
	w.link.close()
	stopReaping()
	w.bury(k, over)
	w.status = k.status
	select {
	case started <- errNoGuard: // unless it was told before
	default:
	}
	w.terminal.take(w.pid)
	close(w.done)
}

// bury reaps the guard, and ends the work if the guard has not. Then the kernel
// has killed the command, and which of its children had left is not to be known
// any more: all are killed that are no strangers. There may be a command, or the end
// of one, that the guard has not told of.
func (w *Work) bury(k *keeper, over bool) {
	k.command, k.all, k.isStranger = w.pid, true, w.isStranger
	awaitChild(w.guard)
	if _, err := processes(); over || w.pid == 0 && errors.Is(err, errBlind) {
		k.reap()
		return
	}
	k.ended = true
	orders := make(chan order)
	close(orders)
	k.run(orders)
	k.status = syscall.WaitStatus(syscall.SIGKILL)
}

// stopped is called when the command was stopped, or when this process is to stop
// after the command's end.
//
// If it wants the terminal and may have it, it gets it. Otherwise the caller
// may be the job of a shell, which must see it stop too. The command goes on
// when the caller does: Signal is told of the SIGCONT. Where no shell could
// continue the caller the command goes on at once.
func (w *Work) stopped(by syscall.Signal) {
	front := w.terminal.isOf(w.pid)
	switch by {
	case syscall.SIGSTOP:
		if !front {
			return // no keyboard sends that: the command alone is meant
		}
	case syscall.SIGTTIN, syscall.SIGTTOU:
		w.terminal.wanted()
		if w.terminal.isOurs() {
			w.Signal(syscall.SIGCONT)
			return
		}
	}
	w.terminal.take(w.pid)
	if !suspend(front) {
		w.Signal(syscall.SIGCONT)
	}
}
