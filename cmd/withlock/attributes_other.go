//go:build unix && !linux

package main

import "syscall"

// commandAttributes are those of a process that leads a group of its own. That
// it does not outlive this one is left to the guard.
func commandAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// adoptOrphans does nothing: init reaps orphans.
func adoptOrphans() {}
