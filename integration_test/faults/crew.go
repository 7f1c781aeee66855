package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A crew is the workers of a run. Each has a place, which a new one takes when
// it is killed.
type crew struct {
	config workerConfig // of all, but for numbers and places
	log    *journal

	mu      sync.Mutex
	members []*member // guarded by mu
	next    int       // guarded by mu: the number of the next worker
}

// A member is one worker process.
type member struct {
	config  workerConfig
	process *exec.Cmd
	control io.WriteCloser
	stderr  string
	exited  chan struct{} // closed after err is set
	err     error
	killed  bool // by a fault; guarded by the crew's mu
}

func newCrew(config workerConfig, log *journal, size int) (*crew, error) {
	c := &crew{config: config, log: log, members: make([]*member, size), next: 1}
	for place := range size {
		if err := c.fill(place); err != nil {
			return c, err
		}
	}
	return c, nil
}

// fill starts a worker for a place. The crew's mu is held, or nobody else has
// the crew yet.
func (c *crew) fill(place int) error {
	config := c.config
	config.Place, config.Number = place, c.next
	c.next++
	m, err := startMember(config)
	if err == nil {
		c.members[place] = m
	}
	return err
}

func startMember(config workerConfig) (*member, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	environment, err := config.environment()
	if err != nil {
		return nil, err
	}
	m := &member{config: config, process: exec.Command(self), exited: make(chan struct{})}
	m.process.Env = append(os.Environ(), environment)
	m.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for the run, whose end they notice
	m.stderr = filepath.Join(config.Dir, fmt.Sprintf("worker-%03d.stderr", config.Number))
	stderr, err := os.Create(m.stderr)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	m.process.Stderr = stderr
	if m.control, err = m.process.StdinPipe(); err != nil {
		return nil, err
	}
	if err := m.process.Start(); err != nil {
		return nil, err
	}
	go func() {
		m.err = m.process.Wait()
		close(m.exited)
	}()
	return m, nil
}

// replace kills the worker of a place and starts another one.
func (c *crew) replace(place int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[place]
	m.killed = true
	if err := m.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-m.exited
	_ = m.control.Close()
	return c.fill(place)
}

func (c *crew) size() int { return len(c.members) }

func (c *crew) member(place int) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[place]
}

func (m *member) signal(signal os.Signal) error { return m.process.Process.Signal(signal) }

// checkAlive reports workers that have ended by themselves.
func (c *crew) checkAlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		select {
		case <-m.exited:
			if !m.killed {
				m.killed = true // reported once
				c.log.violation(0, 0, "%s ended by itself: %v\n%s", m.config.name(), m.err, m.stderrTail())
			}
		default:
		}
	}
}

// calm has every worker show that all works, and end. No worker is alive when
// it returns.
func (c *crew) calm(bound time.Duration) {
	c.checkAlive()
	for _, m := range c.members {
		// A worker that is gone has been reported.
		_, _ = io.WriteString(m.control, "calm\n")
	}
	deadline := time.After(bound)
	for _, m := range c.members {
		select {
		case <-m.exited:
		case <-deadline:
			c.log.violation(0, 0, "%s did not end within %v of the last fault", m.config.name(), bound)
			c.end()
		}
		if m.err != nil && !m.killed {
			c.log.violation(0, 0, "%s: %v\n%s", m.config.name(), m.err, m.stderrTail())
		}
	}
}

// end ends all workers, with their stacks in their standard error.
func (c *crew) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m == nil {
			continue
		}
		_ = m.signal(syscall.SIGCONT)
		_ = m.signal(syscall.SIGQUIT)
		select {
		case <-m.exited:
		case <-time.After(10 * time.Second):
			_ = m.process.Process.Kill()
			<-m.exited
		}
	}
}

func (m *member) stderrTail() string {
	text, err := os.ReadFile(m.stderr)
	if err != nil {
		return err.Error()
	}
	return string(text[:min(len(text), 8<<10)])
}
