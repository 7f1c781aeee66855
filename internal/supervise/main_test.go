//go:build unix

package supervise_test

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/supervise"
	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// The test binary is three programs: with the first argument "caller" it is one
// that supervises a command, and with "ticks" it is such a command.
func TestMain(m *testing.M) {
	supervise.Main()
	if len(os.Args) > 3 && os.Args[1] == "caller" {
		os.Exit(caller(os.Args[2], os.Args[3:]))
	}
	if len(os.Args) == 2 && os.Args[1] == "ticks" {
		os.Exit(tick())
	}
	testneed.Signals()
	// Else each of the many processes of these tests sleeps a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	os.Exit(m.Run())
}

// tick writes its pid into the file parent, and a byte a moment into the file
// ticks. A shell that starts a program for each moment would not do: it cannot
// be stopped just when it starts one with vfork.
func tick() int {
	err := os.WriteFile("parent", fmt.Append(nil, os.Getpid()), 0o600)
	file, openErr := os.Create("ticks")
	for err = errors.Join(err, openErr); err == nil; time.Sleep(5 * time.Millisecond) {
		_, err = file.WriteString("x")
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// caller runs a command and keeps a file locked until the work is over.
func caller(lock string, args []string) int {
	file, err := os.OpenFile(lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	signals := make(chan os.Signal, 16)
	for s := syscall.Signal(1); s < 32; s++ {
		switch s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF, syscall.SIGTTIN, syscall.SIGTTOU:
		default:
			if !signal.Ignored(s) {
				signal.Notify(signals, s)
			}
		}
	}
	guard, err := supervise.Post(supervise.Command{
		Path: args[0], Args: args,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	work, err := guard.Start(os.Environ(), int(file.Fd()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		return 126
	}
	var kill <-chan time.Time
	for {
		select {
		case s := <-signals:
			work.Signal(s.(syscall.Signal))
			if s == syscall.SIGTERM {
				kill = time.After(time.Second)
			}
		case <-kill:
			work.Signal(syscall.SIGKILL)
		case <-work.Done():
			status := work.Status()
			if !status.Signaled() {
				return status.ExitStatus()
			}
			if status.Signal() == syscall.SIGINT {
				supervise.DieOf(syscall.SIGINT, work.Interrupted())
			}
			return 128 + int(status.Signal())
		}
	}
}
