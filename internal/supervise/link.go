//go:build unix

package supervise

import (
	"encoding/binary"
	"io"
	"os"
	"syscall"
)

// Orders to the guard. Their values are signals.
const (
	signalAll = iota
	signalGroup
	signalCommand
	openGate // has no value
)

// Reports from the guard.
const (
	forked   = iota // pid: the command waits at its gate
	running         // pid
	failed          // errno: the command was not executed
	stopped         // signal
	ended           // wait status
	workOver        // has no value; the guard ends
)

type order struct{ kind, value int }

// link carries orders and reports between two processes. Its end is that of the
// other process.
type link struct{ file *os.File }

// newLink returns a link and the other end of it, which is not closed on exec.
func newLink() (ours *link, theirs int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, 0, err
	}
	syscall.CloseOnExec(pair[0])
	return linkAt(pair[0]), pair[1], nil
}

// linkAt returns the link at a descriptor, which processes that are started
// later do not inherit.
func linkAt(descriptor int) *link {
	syscall.CloseOnExec(descriptor)
	return &link{os.NewFile(uintptr(descriptor), "link")}
}

// send cannot fail but for the end of the other process, which receive tells.
func (l *link) send(kind, value int) {
	var b [8]byte
	binary.NativeEndian.PutUint32(b[:4], uint32(kind))
	binary.NativeEndian.PutUint32(b[4:], uint32(value))
	_, _ = l.file.Write(b[:])
}

func (l *link) receive() (kind, value int, err error) {
	var b [8]byte
	if _, err := io.ReadFull(l.file, b[:]); err != nil {
		return 0, 0, err
	}
	return int(binary.NativeEndian.Uint32(b[:4])), int(binary.NativeEndian.Uint32(b[4:])), nil
}

func (l *link) close() { _ = l.file.Close() } // nothing is buffered
