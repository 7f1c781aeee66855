//go:build unix

package main

import (
	"os"
	"syscall"
)

// passedOn are the signals that the command gets in withlock's stead.
var passedOn = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGCONT,
}

// ends reports whether a signal ends a program that does not expect it.
func ends(s os.Signal) bool { return s != syscall.SIGWINCH && s != syscall.SIGCONT }
