//go:build unix

package main

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// execute runs the command and returns its exit code when its whole process
// group is gone. A lock that is lost on the way ends the command, and is a
// failure.
func (p *program) execute(ctx context.Context, lock *sessionlock.Lock, path string, env []string, signals <-chan os.Signal) (int, error) {
	c, err := p.start(lock, path, env)
	if err != nil {
		return 0, failuref(exitNotExecutable, "%s: cannot be executed: %v", p.command[0], err)
	}
	lost := p.supervise(ctx, c, lock.Lost(), signals)
	code := exitCode(c.status)
	if p.verbose {
		say(p.stderr, "the command ended with exit code %d", code)
	}
	if lost {
		return code, failuref(exitLost, "")
	}
	return code, nil
}

// supervise returns when the command's group is gone, and reports whether the
// lock was lost before. Until then it passes signals on, and stops the command
// when the lock is lost or ctx ends.
//
// SIGHUP only is passed on: to many programs it means to read their
// configuration again. After the others whoever is left when killAfter is over
// is killed.
func (p *program) supervise(ctx context.Context, c *command, lockLost <-chan struct{}, signals <-chan os.Signal) (lost bool) {
	var kill <-chan time.Time
	stop := func(signal syscall.Signal) {
		c.signal(signal)
		if kill == nil {
			kill = time.After(p.killAfter)
		}
	}
	ended := ctx.Done()
	for {
		select {
		case <-c.gone:
			return lost
		case s := <-signals:
			if s == syscall.SIGHUP {
				c.signal(syscall.SIGHUP)
				continue
			}
			stop(s.(syscall.Signal))
		case <-lockLost:
			lockLost, lost = nil, true
			say(p.stderr, "%s was lost: somebody else may have it; stopping the command", p.label())
			stop(syscall.SIGTERM)
		case <-ended:
			ended = nil
			stop(syscall.SIGTERM)
		case <-kill:
			c.signal(syscall.SIGKILL)
			kill = nil
		}
	}
}

// exitCode returns what a shell would have in $?.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return status.ExitStatus()
}
