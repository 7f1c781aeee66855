package supervise

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// inheritedIgnored returns the signals that were ignored when the program began.
//
// The system forgets that when the Go runtime installs its handlers, which it
// does before any other code runs. The runtime remembers it, in an array of an
// entry for each signal, and tells of SIGHUP and SIGINT only. The array is found
// by a mark: a real-time signal that is used by nothing gets a handler. Its
// address is a random number, which the runtime puts into the array when it
// installs its own. Where the mark is not found, no more than the runtime tells
// is known.
//
// One signal is marked, and not several: for each the runtime waits for another
// thread, which on a busy machine takes a millisecond.
//
// To the signals that stop a process the runtime does nothing yet, and the system
// still knows.
func inheritedIgnored() (ignored signalSet) {
	const signalMarked = 40
	const size = int(unsafe.Sizeof(uintptr(0)))
	bytesOf := func(entry *uintptr) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(entry)), size) }
	// The runtime's variables have the random number as it is. 0 and 1 would mean the
	// default, and to ignore.
	address := uintptr(^rand.Uint64() | 2)
	signal.Ignore(syscall.Signal(signalMarked))    // else the runtime's handler is there already
	if strings.HasPrefix(runtime.GOARCH, "mips") { // where the structure is another one
		return 0
	}
	setAction(signalMarked, &action{address}, nil)
	unread := make(chan os.Signal, 1)
	signal.Notify(unread, syscall.Signal(signalMarked))
	signal.Stop(unread)
	mark, ignore := bytesOf(&address), bytesOf(&ignoreAction[0])
	data := staticData()
	at := bytes.Index(data, mark) - signalMarked*size
	for s := 1; s < 32 && at >= 0; s++ {
		if bytes.HasPrefix(data[at+s*size:], ignore) {
			ignored |= 1 << s
		}
	}
	for _, s := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
		var now action
		if setAction(s, nil, &now); now[0] == ignoreAction[0] {
			ignored |= 1 << s
		}
	}
	return ignored
}

// staticData returns a copy of the memory that holds the program's variables:
// what is mapped from its file to be written to, and what follows without a gap.
func staticData() (all []byte) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil
	}
	defer memory.Close()
	// The array is in what follows, or begins on the last page from the file. The
	// linker puts what is larger behind it. To read all would take too long.
	const page, most = 4 << 10, 384 << 10
	var end uint64 // of the mapping before
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			return all
		}
		fromFile := strings.Contains(line, "/")
		goesOn := len(all) > 0 && from == end
		end = to
		switch {
		case mode == "rw-p" && (fromFile || goesOn):
			if fromFile {
				from = max(from, to-page)
			}
			data := make([]byte, min(to-from, most))
			if _, err := memory.ReadAt(data, int64(from)); err != nil {
				return all
			}
			all = append(all, data...)
		case len(all) > 0:
			return all
		}
	}
	return all
}
