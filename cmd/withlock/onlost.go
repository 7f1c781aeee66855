//go:build unix

package main

import (
	"os/exec"
	"syscall"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/supervise"
)

// lostCommand is the shell text of --on-lost, which runs at most once.
type lostCommand struct {
	program *program
	over    chan struct{} // closed when it has ended; nil while it has not begun
	pid     int
}

// start starts it, unless it has run, and has it be none of work, which may be nil. It
// leads a process group of its own, and stdout remains COMMAND's alone.
func (c *lostCommand) start(work *supervise.Work) {
	if c.program.onLost == "" || c.over != nil {
		return
	}
	args := shellCommand(c.program.onLost)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = c.program.stderr, c.program.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.over = make(chan struct{})
	if err := cmd.Start(); err != nil {
		say(c.program.stderr, "--on-lost: %v", err)
		close(c.over)
		return
	}
	c.pid = cmd.Process.Pid
	if work != nil {
		work.Spare(c.pid)
	}
	go func() {
		defer close(c.over)
		_ = cmd.Wait() // its own affair, and it may be reaped by what reaps the work
	}()
}

// wait waits for its end. After --kill-after it is killed.
func (c *lostCommand) wait() {
	if c.over == nil {
		return
	}
	select {
	case <-c.over:
	case <-time.After(c.program.killAfter):
		_ = syscall.Kill(-c.pid, syscall.SIGKILL) // fails if it has just ended
		<-c.over
	}
}
