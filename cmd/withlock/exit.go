package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes of withlock's own. Codes below 126 are from sysexits.h, the others
// are what a shell returns.
const (
	exitUsage         = 64
	exitNoDatabase    = 69
	exitLost          = 74
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // and the signal's number
)

// failure is an error that the program ends with.
type failure struct {
	code   int
	reason string         // "" where there is nothing to say
	signal syscall.Signal // what has ended the program, 0 if none
}

// ending is how the program is to end.
type ending struct {
	code   int
	signal syscall.Signal // what has ended the command or the program, 0 if none
	group  bool           // the terminal would have sent it to the group of this process as well
	told   bool           // the command was told to end
}

func (f *failure) Error() string { return f.reason }

func failuref(code int, format string, args ...any) *failure {
	return &failure{code: code, reason: fmt.Sprintf(format, args...)}
}

func usageError(format string, args ...any) *failure { return failuref(exitUsage, format, args...) }

func noDatabase(format string, args ...any) *failure {
	return failuref(exitNoDatabase, format, args...)
}

// say writes a line of withlock's own. stdout belongs to the command. A
// pipe that is full, and not read, holds the program up for a moment only.
func say(stderr *os.File, format string, args ...any) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		fmt.Fprintf(stderr, "withlock: "+format+"\n", args...)
	}()
	select {
	case <-written:
	case <-time.After(time.Second):
	}
}

// surviveBrokenPipes makes a write to a pipe without a reader an error. By
// default a Go program dies of it, if the pipe is stdout or stderr.
func surviveBrokenPipes() {
	if !signal.Ignored(syscall.SIGPIPE) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
}
