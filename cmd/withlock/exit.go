package main

import (
	"fmt"
	"os"
)

// Exit codes of withlock's own. Those below 126 are from sysexits.h, the other
// two are what a shell returns.
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
	reason string // "" where there is nothing to say
}

func (f *failure) Error() string { return f.reason }

func failuref(code int, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...)}
}

func usageError(format string, args ...any) *failure { return failuref(exitUsage, format, args...) }

func noDatabase(format string, args ...any) *failure {
	return failuref(exitNoDatabase, format, args...)
}

// say writes a line of withlock's own. stdout belongs to the command.
func say(stderr *os.File, format string, args ...any) {
	fmt.Fprintf(stderr, "withlock: "+format+"\n", args...)
}
