package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// canSee says that the work is what descends from the guard.
const canSee = true

// continuedToo has wait tell of children that go on.
const continuedToo = syscall.WCONTINUED

// executable returns what to execute for another process of this program. The
// kernel's link leads to this program even if its file was replaced or removed.
func executable() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Readlink(self); err == nil {
		return self, nil
	}
	return os.Executable()
}

// commandAttributes has a process lead a group of its own, and the kernel kill
// it if the guard ends. What the command has started then is the caller's to
// kill.
func commandAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// adoptOrphans makes this process the parent of whatever loses its parent among
// its descendants.
func adoptOrphans() {
	const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER of linux/prctl.h
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0)
}

// sessionOf returns the session of a process, -1 if there is no such process.
func sessionOf(pid int) int {
	session, _, errno := syscall.RawSyscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return -1
	}
	return int(session)
}

// processes returns all living processes. An error other than errBlind passes, as
// when too many files are open: there may be more of them.
//
// A /proc of another namespace of processes, as unshare --pid without --mount-proc
// leaves it, has other numbers than the system calls.
func processes() (all []process, err error) {
	self, err := os.Readlink("/proc/self")
	if err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, blind(err)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, blind(err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, blind(err)
	}
	var unread error
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil { // it has ended, or is another user's and hidden
			if passes(err) {
				unread = err
			}
			continue
		}
		if p, ok := parseStat(pid, string(stat)); ok {
			all = append(all, p)
		}
	}
	return all, unread
}

// passes reports whether err is of a system that is short of something.
func passes(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// blind returns err if it passes, and errBlind otherwise.
func blind(err error) error {
	if passes(err) {
		return err
	}
	return errBlind
}

// parseStat reads a stat file: see proc(5). It is not ok for a zombie. One that
// has threads left lives: its first thread alone has ended.
func parseStat(pid int, stat string) (p process, ok bool) {
	p.pid = pid
	rest := stat[strings.LastIndexByte(stat, ')')+1:] // the name may contain anything
	var state string
	if _, err := fmt.Sscan(rest, &state, &p.parent, &p.group, &p.session); err != nil {
		return p, false
	}
	fields := strings.Fields(rest)
	const threads = 20 - 3 // the first field here is the third one
	dead := (state == "Z" || state == "X") && (len(fields) <= threads || fields[threads] <= "1")
	return p, !dead
}

// isStopped reports whether a process is stopped.
func isStopped(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " T")
}

// suspendSelf stops this process, with its whole group if that is said, as
// Ctrl-Z would. It returns when it is continued. The kernel does not stop a
// group that no shell could continue, nor the first process of a container;
// then it returns at once.
//
// The signal has to have its default action for that. signal.Reset does not
// give that back.
func suspendSelf(group bool) {
	var before, byDefault action // zeros are SIG_DFL
	setAction(syscall.SIGTSTP, &ignoreAction, &before)
	defer setAction(syscall.SIGTSTP, &before, nil)
	if group { // all but this process, which would otherwise stop twice
		_ = syscall.Kill(0, syscall.SIGTSTP) // cannot fail
	}
	setAction(syscall.SIGTSTP, &byDefault, nil)
	// A signal to the calling thread has its effect before the call returns.
	_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGTSTP)
}

// action is a struct sigaction, or larger: a handler, and flags, restorer and mask,
// which are nothing here, in some order.
type action [16]uintptr

var ignoreAction = action{1} // SIG_IGN

// setAction sets the action of a signal, unless that is nil, and stores what it was
// before. It cannot fail.
func setAction(s syscall.Signal, next, before *action) {
	const maskSize = 8
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s),
		uintptr(unsafe.Pointer(next)), uintptr(unsafe.Pointer(before)), maskSize, 0, 0)
}
