//go:build unix

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/supervise"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// execute runs the command and returns how it ended, when all of its work is
// over. A lock that is lost on the way ends the work, and is a failure.
func (p *program) execute(ctx context.Context, lock *sessionlock.Lock, path string, env []string, signals chan os.Signal) (ending, error) {
	socket := socketOf(lock)
	work, err := supervise.Start(supervise.Command{
		Path: path, Args: p.command, Env: env,
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr,
		Keep: socket,
	})
	if socket >= 0 {
		_ = syscall.Close(socket) // the guard has it
	}
	if err != nil {
		code := exitNotExecutable
		if errors.Is(err, fs.ErrNotExist) {
			code = exitNotFound // its interpreter, as the file is there
		}
		return ending{}, failuref(code, "%s: cannot be executed: %v", p.command[0], err)
	}
	catch(signals, syscall.SIGTSTP) // while withlock waits, it stops alone
	lost := p.supervise(ctx, work, lock.Lost(), signals)
	end := endingOf(work)
	if p.verbose {
		say(p.stderr, "the command ended with exit code %d", end.code)
	}
	if lost {
		return end, failuref(exitLost, "")
	}
	return end, nil
}

// supervise returns when the work is over, and reports whether the lock was lost
// before. Until then it passes signals on, and stops the work when the lock is
// lost or ctx ends.
func (p *program) supervise(ctx context.Context, work *supervise.Work, lockLost <-chan struct{}, signals <-chan os.Signal) (lost bool) {
	var kill <-chan time.Time
	stop := func(signal syscall.Signal) {
		work.Signal(signal)
		if kill == nil {
			kill = time.After(p.killAfter)
		}
	}
	ended := ctx.Done()
	for {
		select {
		case <-work.Done():
			return lost
		case s := <-signals:
			switch s {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
				stop(s.(syscall.Signal))
			default: // to many programs SIGHUP means to read their configuration again
				work.Signal(s.(syscall.Signal))
			}
		case <-lockLost:
			lockLost, lost = nil, true
			stop(syscall.SIGTERM)
			say(p.stderr, "%s was lost: somebody else may have it; stopping the command", p.label())
		case <-ended:
			ended = nil
			stop(syscall.SIGTERM)
		case <-kill:
			kill = nil
			work.Signal(syscall.SIGKILL)
		}
	}
}

// endingOf returns how the command ended, with what a shell would have in $?.
func endingOf(work *supervise.Work) ending {
	status := work.Status()
	if !status.Signaled() {
		return ending{code: status.ExitStatus()}
	}
	return ending{
		code:   exitSignal + int(status.Signal()),
		signal: status.Signal(),
		group:  work.Interrupted(),
	}
}

// die ends this process as the command ended, where a shell makes a difference
// between that and an exit code: a loop ends at Ctrl-C. It returns otherwise.
func (e ending) die() {
	if e.signal == syscall.SIGINT {
		supervise.DieOf(e.signal, e.group)
	}
}

// asHelper does not return if this process is a part of another withlock.
func asHelper() { supervise.Main() }
