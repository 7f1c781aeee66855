package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"

	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// run is the program, and returns how it is to end. The three streams are files
// because they become the command's own, with nothing in between that would
// have to copy.
func run(ctx context.Context, args []string, stdin, stdout, stderr *os.File) ending {
	surviveBrokenPipes()
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, help)
		return ending{}
	case err != nil:
		say(stderr, "%v (see withlock --help)", err)
		return ending{code: exitUsage}
	case o.version:
		fmt.Fprintln(stdout, version())
		return ending{}
	}
	p := &program{options: o, stdin: stdin, stdout: stdout, stderr: stderr}
	end, err := p.run(ctx)
	if failed := (*failure)(nil); errors.As(err, &failed) {
		if failed.reason != "" {
			say(stderr, "%s", failed.reason)
		}
		return ending{code: failed.code, signal: failed.signal}
	}
	return end
}

func (p *program) run(ctx context.Context) (ending, error) {
	if p.options.doctor {
		return ending{}, p.doctor(ctx)
	}
	path := ""
	if !p.options.list {
		var err error
		if path, err = lookPath(p.command[0]); err != nil {
			return ending{}, err
		}
	}
	db, err := open(p.options)
	if err != nil {
		return ending{}, err
	}
	defer db.Close()
	p.db = db
	if p.options.list {
		return ending{}, p.showList(ctx)
	}
	return p.locked(ctx, path)
}

// locked takes the lock, runs the command and gives the lock back. It returns
// how the command ended, or a failure.
func (p *program) locked(ctx context.Context, path string) (ending, error) {
	// The guard takes its time to begin, which it does beside the wait.
	guard, err := p.post(path)
	if err != nil {
		return ending{}, err
	}
	signals := catchSignals()
	waiting, stop := interruptible(ctx, signals)
	lock, token, err := p.take(waiting)
	stop()
	if signal := (interrupted{}); err == nil && errors.As(context.Cause(waiting), &signal) {
		err = signal
	}
	if err != nil {
		if lock != nil {
			_ = lock.Unlock() // the command has not run, and nothing depends on it
		}
		guard.Dismiss()
		return ending{}, p.refusal(ctx, err)
	}
	if p.verbose {
		say(p.stderr, "locked %s", lock.Key())
	}
	p.db.SetMaxIdleConns(0) // the turn has left one, which would stay as long as COMMAND
	for name, value := range map[string]string{
		"WITHLOCK_NAME": p.name, "WITHLOCK_KEY": keyNumber(lock.Key()), "WITHLOCK_TOKEN": strconv.FormatUint(token, 10),
	} {
		_ = os.Setenv(name, value) // an argument can be a value
	}
	return p.execute(ctx, lock, guard, signals)
}

// take returns the lock and its fencing token. With an error there may be a
// lock, which must be given back.
func (p *program) take(ctx context.Context) (*hold, uint64, error) {
	lock, err := p.acquire(ctx)
	if err != nil {
		return nil, 0, err
	}
	asking, cancel := toAnswer(ctx)
	defer cancel()
	token, err := lock.Token(asking)
	return lock, token, err
}

// refusal returns the failure of a program that did not get the lock.
func (p *program) refusal(ctx context.Context, err error) *failure {
	var signal interrupted
	switch {
	case errors.As(err, &signal):
		return &failure{code: exitSignal + int(signal.signal), signal: signal.signal}
	case ctx.Err() != nil:
		return failuref(1, "%v", context.Cause(ctx))
	case errors.Is(err, errConflict):
		return failuref(p.conflictCode, "%s", p.conflict(ctx))
	case errors.Is(err, sessionlock.ErrPooler):
		return noDatabase("there is a connection pooler before the server, which could give the lock away:" +
			" connect to the server itself, or say --pooler if it pools sessions")
	}
	return unavailable(p.options, err)
}

// lookPath returns the file to execute for a command, as a shell would find it.
func lookPath(command string) (string, error) {
	path, err := exec.LookPath(command)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot): // a PATH that has "." is asked for
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", failuref(exitNotFound, "%s: not found", command)
	}
	return "", failuref(exitNotExecutable, "%s: cannot be executed: %v", command, errors.Unwrap(err))
}
