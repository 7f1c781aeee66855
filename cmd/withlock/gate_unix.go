//go:build unix

package main

import (
	"errors"
	"os"
	"syscall"
)

// gate is what the command's process waits at before it becomes the command.
// It never does if this process ends with the gate closed.
type gate struct{ pipe *os.File }

// newGate returns a gate and the other end of it, which is not closed on exec:
// the caller closes it when the process has been made.
func newGate() (g *gate, other int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	// Its number is one that was free, so that descriptors which the command
	// is to inherit keep theirs.
	if other, err = syscall.Dup(int(r.Fd())); err != nil {
		w.Close()
		return nil, 0, err
	}
	return &gate{w}, other, nil
}

func gateArgs(descriptor int, path string, command []string) []string {
	return helperArgs(roleGate, descriptor, append([]string{path}, command...)...)
}

// open lets the process go on.
func (g *gate) open() error {
	defer g.close()
	_, err := g.pipe.Write([]byte{1})
	return err
}

func (g *gate) close() { _ = g.pipe.Close() } // nothing is buffered

// gateMain is the process: args are a file and the arguments to execute it with.
func gateMain(descriptor int, args []string) int {
	syscall.CloseOnExec(descriptor)
	for {
		n, err := syscall.Read(descriptor, make([]byte, 1))
		if err == syscall.EINTR {
			continue
		}
		if n != 1 {
			return exitNotExecutable // withlock is gone, and nobody looks
		}
		break
	}
	err := syscall.Exec(args[0], args[1:], os.Environ())
	say(os.Stderr, "%s: cannot be executed: %v", args[1], err)
	if errors.Is(err, syscall.ENOENT) {
		return exitNotFound // its interpreter, as the file is there
	}
	return exitNotExecutable
}
