package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// The test binary is three programs: by the name of withlock it is withlock,
// and by the name of status one that scripts use.
func TestMain(m *testing.M) {
	// Else each of the many processes of these tests sleeps a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	testscript.Main(served{m}, map[string]func(){"withlock": main, "status": statusMain})
}

// served stops the server after the tests.
type served struct{ m *testing.M }

func (s served) Run() int {
	testneed.Signals()
	return pgtest.Main(s.m)
}

// statusMain runs a command that is to have an exit code, as a shell has it:
// status CODE COMMAND…
func statusMain() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "status:", err)
		os.Exit(1)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "status:", err)
		os.Exit(1)
	}
	if got := shellCode(cmd.ProcessState); got != want {
		fmt.Fprintf(os.Stderr, "status: exit code %d, want %d\n", got, want)
		os.Exit(1)
	}
}

// shellCode returns what a shell would have in $?.
func shellCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return state.ExitCode()
}
