package supervise

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unsafe"
)

// inheritedIgnored returns the signals that were ignored when the program began.
//
// The system forgets that when the Go runtime installs its handlers, which it
// does before any other code runs. The runtime remembers it, in an array of an
// entry for each signal, and tells of SIGHUP and SIGINT only. The array is found
// by a mark: of the real-time signals, which nobody uses here, some are ignored
// for a moment, in a pattern that occurs nowhere else. Where it is not found,
// no more than the runtime tells is known.
func inheritedIgnored() (ignored signalSet) {
	const first, count = 36, 28
	const pattern = 0x9e3779b & (1<<count - 1)
	const size = int(unsafe.Sizeof(uintptr(0)))
	nobody := make(chan os.Signal, 1)
	mark := make([]byte, count*size)
	for i := range count {
		if pattern>>i&1 == 1 {
			signal.Ignore(syscall.Signal(first + i))
			binary.NativeEndian.PutUint32(mark[i*size+lowHalf(size):], 1)
		}
		// To install its handler the runtime reads what is there before.
		signal.Notify(nobody, syscall.Signal(first+i))
	}
	defer signal.Stop(nobody)
	data := staticData()
	at := bytes.Index(data, mark) - first*size
	for s := 1; s < 32 && at >= 0; s++ {
		if binary.NativeEndian.Uint32(data[at+s*size+lowHalf(size):]) == 1 {
			ignored |= 1 << s
		}
	}
	return ignored
}

// lowHalf returns where in a word of a size the low 32 bits are.
func lowHalf(size int) int {
	one := [2]byte{1}
	if binary.NativeEndian.Uint16(one[:]) == 1 {
		return 0
	}
	return size - 4
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
