//go:build unix

package supervise

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
)

// Orders to the guard. Their values are signals.
const (
	signalAll = iota
	signalGroup
	signalCommand
	openGate   // has no value
	start      // size of the environment, which follows
	startGated // likewise; the command waits at a gate
)

// Reports from the guard.
const (
	forked    = iota // pid: the command waits at its gate
	running          // pid
	failed           // errno: the command was not executed
	stopped          // see encodeStop
	continued        // has no value
	ended            // wait status
	workOver         // has no value; the guard ends
)

type order struct{ kind, value int }

// resumes reports whether an order has the command go on, if it was stopped.
func (o order) resumes() bool {
	return o.kind == signalAll || o.kind == signalGroup && syscall.Signal(o.value) == syscall.SIGCONT
}

// encodeStop is the value of a report that the command was stopped: the signal, and
// how many orders to resume it the guard had obeyed before.
func encodeStop(s syscall.Signal, resumes int) (value int) { return resumes<<8 | int(s) }

func decodeStop(value int) (s syscall.Signal, resumes int) {
	return syscall.Signal(value & 0xff), value >> 8
}

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
	_, _ = l.file.Write(encode(kind, value))
}

// sendStart sends the order to start the command, with its environment, and
// with a descriptor for the guard, unless that is -1.
func (l *link) sendStart(kind int, env []string, keep int) {
	text := strings.Join(env, "\x00")
	var rights []byte
	if keep >= 0 {
		rights = syscall.UnixRights(keep)
	}
	_ = syscall.Sendmsg(int(l.file.Fd()), encode(kind, len(text)), rights, nil, 0) // as send
	_, _ = l.file.WriteString(text)
}

// receiveStart receives that order.
func (l *link) receiveStart() (kind int, env []string, keep int, err error) {
	var b [8]byte
	rights := make([]byte, syscall.CmsgSpace(4))
	n, size, _, _, err := syscall.Recvmsg(int(l.file.Fd()), b[:], rights, 0)
	for errors.Is(err, syscall.EINTR) {
		n, size, _, _, err = syscall.Recvmsg(int(l.file.Fd()), b[:], rights, 0)
	}
	if err != nil || n < len(b) {
		return 0, nil, -1, cmp.Or(err, io.EOF)
	}
	kind, length := decode(b)
	text := make([]byte, length)
	if _, err := io.ReadFull(l.file, text); err != nil {
		return 0, nil, -1, err
	}
	if length > 0 {
		env = strings.Split(string(text), "\x00")
	}
	return kind, env, descriptorIn(rights[:size]), nil
}

// descriptorIn returns the descriptor that came with a message, or -1.
func descriptorIn(rights []byte) int {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return -1
	}
	descriptors, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(descriptors) == 0 {
		return -1
	}
	syscall.CloseOnExec(descriptors[0])
	return descriptors[0]
}

func (l *link) receive() (kind, value int, err error) {
	var b [8]byte
	if _, err := io.ReadFull(l.file, b[:]); err != nil {
		return 0, 0, err
	}
	kind, value = decode(b)
	return kind, value, nil
}

func encode(kind, value int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(kind))
	return binary.NativeEndian.AppendUint32(b, uint32(value))
}

func decode(b [8]byte) (kind, value int) {
	return int(binary.NativeEndian.Uint32(b[:4])), int(binary.NativeEndian.Uint32(b[4:]))
}

func (l *link) close() { _ = l.file.Close() } // nothing is buffered
