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

// guard is the process that is to execute the command.
type guard = supervise.Guard

// post starts it.
func (p *program) post(path string) (*guard, error) {
	guard, err := supervise.Post(supervise.Command{
		Path: path, Args: p.command,
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr,
	})
	if err != nil {
		return nil, failuref(exitNotExecutable, "no process can be started: %v", err)
	}
	return guard, nil
}

// execute runs the command and gives the lock back when all of its work is over.
// It returns how the command ended. A lock that was lost on the way has ended
// the work, and is a failure.
func (p *program) execute(ctx context.Context, h *hold, guard *guard, signals chan os.Signal) (ending, error) {
	onLost := &lostCommand{program: p}
	end, err := p.work(ctx, h, guard, signals, onLost)
	if err == nil && !end.told {
		p.keep(ctx, h, signals)
	}
	releaseErr := p.release(h)
	if releaseErr != nil {
		onLost.start(nil)
	}
	onLost.wait()
	return end, errors.Join(err, releaseErr)
}

// work runs the command until all of its work is over.
func (p *program) work(ctx context.Context, h *hold, guard *guard, signals chan os.Signal, onLost *lostCommand) (ending, error) {
	socket := socketOf(h.Lock)
	work, err := guard.Start(os.Environ(), socket)
	if socket >= 0 {
		_ = syscall.Close(socket) // the guard has it
	}
	switch errno := syscall.Errno(0); {
	case err == nil:
	case !errors.As(err, &errno): // it is not known whether it was executed
		return ending{}, failuref(exitSignal+int(syscall.SIGKILL), "%s: %v", p.command[0], err)
	case errors.Is(err, fs.ErrNotExist):
		return ending{}, failuref(exitNotFound, "%s: cannot be executed: %v", p.command[0], err) // its interpreter, as the file is there
	default:
		return ending{}, failuref(exitNotExecutable, "%s: cannot be executed: %v", p.command[0], err)
	}
	catch(signals, syscall.SIGTSTP) // while withlock waits, it stops alone
	told, lost := p.supervise(ctx, work, h.Lost(), signals, onLost)
	end := endingOf(work)
	end.told = told || end.group
	if p.verbose {
		say(p.stderr, "the command ended with exit code %d", end.code)
	}
	if lost {
		return end, failuref(exitLost, "")
	}
	return end, nil
}

// keep keeps the lock for the rest of --min-hold. What asks to end, ends that.
func (p *program) keep(ctx context.Context, h *hold, signals <-chan os.Signal) {
	rest := p.minHold - time.Since(h.granted)
	if rest <= 0 {
		return
	}
	if p.verbose {
		say(p.stderr, "keeping the lock for another %v", rest.Round(time.Millisecond))
	}
	defer supervise.Reap()()
	timer := time.NewTimer(rest)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-h.Lost():
			return
		case <-ctx.Done():
			return
		case s := <-signals:
			switch s {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
				return
			case syscall.SIGTSTP:
				supervise.Suspend()
			}
		}
	}
}

// release gives the lock back. That it was held to the end is known only now.
func (p *program) release(h *hold) error {
	err := h.Unlock()
	switch {
	case errors.Is(err, sessionlock.ErrLost):
		return failuref(exitLost, "%s was lost: another session may have had it", p.label())
	case err != nil:
		say(p.stderr, "%v", err) // the session is closed, which frees the lock
	case p.verbose:
		say(p.stderr, "unlocked %s", h.Key())
	}
	return nil
}

// supervise returns when the work is over, and reports whether it was told to stop
// before, and whether the lock was lost. Until then it passes signals on, and stops
// the work when the lock is lost or ctx ends.
func (p *program) supervise(ctx context.Context, work *supervise.Work, lockLost <-chan struct{}, signals <-chan os.Signal, onLost *lostCommand) (told, lost bool) {
	var kill <-chan time.Time
	stop := func(signal syscall.Signal) {
		told = true
		work.Signal(signal)
		if kill == nil {
			kill = time.After(p.killAfter)
		}
	}
	ended := ctx.Done()
	for {
		select {
		case <-work.Done():
			return told, lost
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
			say(p.stderr, "%s was lost: another session may have it; stopping the command", p.label())
			onLost.start(work)
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
