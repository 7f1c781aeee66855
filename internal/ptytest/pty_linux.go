// Package ptytest runs programs on a terminal of their own, for tests.
package ptytest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/pgadvisory/pgadvisory/internal/testneed"
)

// Terminal is a terminal with a program on it, which leads its session.
type Terminal struct {
	Cmd    *exec.Cmd
	master *os.File

	mu     sync.Mutex
	output strings.Builder // guarded by mu
}

// Start starts cmd on a new terminal. The test ends it.
func Start(tb testing.TB, cmd *exec.Cmd) *Terminal {
	tb.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		testneed.Missing(tb, fmt.Errorf("no terminals: %w", err))
	}
	var unlock, number int32
	control(tb, master, syscall.TIOCSPTLCK, &unlock)
	control(tb, master, syscall.TIOCGPTN, &number)
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	t := &Terminal{Cmd: cmd, master: master}
	go t.read()
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("processes: %s", t.processes())
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = master.Close() // hangs up
		tb.Logf("terminal: %s", t.Output())
	})
	return t
}

func control(tb testing.TB, file *os.File, request uintptr, value *int32) {
	tb.Helper()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, uintptr(unsafe.Pointer(value))); errno != 0 {
		tb.Fatal(errno)
	}
}

func (t *Terminal) read() {
	b := make([]byte, 1024)
	for {
		n, err := t.master.Read(b)
		if err != nil {
			return // no program has the terminal any more
		}
		t.mu.Lock()
		t.output.Write(b[:n])
		t.mu.Unlock()
	}
}

// processes returns a table of the processes on the terminal.
func (t *Terminal) processes() string {
	table, err := exec.Command("ps", "-s", fmt.Sprint(t.Cmd.Process.Pid),
		"-o", "pid,ppid,pgid,tpgid,stat,wchan:20,pending,blocked,ignored,caught,args").CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(table)
}

// Output returns what was shown so far.
func (t *Terminal) Output() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.output.String()
}

// Foreground returns the process group that is in the foreground.
func (t *Terminal) Foreground(tb testing.TB) int {
	tb.Helper()
	var group int32
	control(tb, t.master, syscall.TIOCGPGRP, &group)
	return int(group)
}

// Type presses keys: \x03 is Ctrl-C, \x1a is Ctrl-Z.
func (t *Terminal) Type(tb testing.TB, keys string) {
	tb.Helper()
	if _, err := t.master.WriteString(keys); err != nil {
		tb.Fatal(err)
	}
}

// Await waits until text is shown for the n-th time.
func (t *Terminal) Await(tb testing.TB, text string, n int) {
	tb.Helper()
	const patience = 20 * time.Second
	for end := time.Now().Add(patience); strings.Count(t.Output(), text) < n; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("%q was shown %d times, want %d; terminal:\n%s", text, strings.Count(t.Output(), text), n, t.Output())
		}
	}
}
