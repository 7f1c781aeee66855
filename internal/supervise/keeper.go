//go:build unix

package supervise

import (
	"errors"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// keeper keeps track of the work below this process, signals and reaps it.
type keeper struct {
	command int // its pid, and the id of its process group
	report  func(kind, value int)
	resumes int // orders to resume the command that were obeyed

	ended  bool // the command was reaped
	status syscall.WaitStatus

	// roots are the children of this process that belong to the work, with
	// their sessions, as they were found last. changed says that one of them
	// is gone.
	roots   map[int]int
	changed bool
	reaped  int // children that have ended

	sessions map[int]bool // the sessions that the work has had since it was told to stop
	left     map[int]bool // the sessions of orphans that had left it by then
	killing  bool

	all        bool               // no process has left the work
	isStranger func(pid int) bool // nil: no child of this process is one
}

func newKeeper(command int, report func(kind, value int)) *keeper {
	return &keeper{command: command, report: report, changed: true}
}

// run obeys orders, and returns when the work is over. The end of orders is
// that of the process which gives them: the work is killed.
func (k *keeper) run(orders <-chan order) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	const shortest, longest = time.Millisecond, 32 * time.Millisecond
	const killLongest = 256 * time.Millisecond // what cannot be killed must not cost much
	for pause := shortest; ; {
		if none := k.reap(); none && k.ended || k.isOver() {
			return
		}
		if k.killing {
			k.signalAll(syscall.SIGKILL)
		}
		var again <-chan time.Time // no event tells of setsid, or of a fork
		if k.ended || k.killing {
			again = time.After(pause)
			if pause *= 2; !k.killing {
				pause = min(pause, longest)
			}
			pause = min(pause, killLongest)
		}
		select {
		case <-again:
		case <-children:
			pause = shortest
		case o, ok := <-orders:
			if !ok {
				orders, k.killing = nil, true
			}
			if ok {
				k.obey(o)
			}
		}
	}
}

func (k *keeper) obey(o order) {
	s := syscall.Signal(o.value)
	if o.resumes() {
		k.resumes++
	}
	switch o.kind {
	case signalAll:
		if k.killing = k.killing || s == syscall.SIGKILL; !k.killing {
			k.signalAll(s)
		}
	case signalGroup:
		k.signalGroup(s)
		if s == syscall.SIGTSTP && k.ended { // else the stop of the command is reported
			k.report(stopped, encodeStop(s, k.resumes))
		}
	case signalCommand:
		if !k.ended {
			_ = syscall.Kill(k.command, s) // fails if it may not be signalled
		}
	}
}

// reap reaps the children that have ended, also where they have left the work. It
// reports whether this process has no children.
func (k *keeper) reap() (none bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|syscall.WUNTRACED|continuedToo, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return canSee // elsewhere the work has processes that are no children
		case pid == 0:
			return false
		default:
			if !status.Stopped() && !status.Continued() {
				k.reaped++
			}
			k.note(pid, status)
		}
	}
}

// note takes note of what wait has told about a child.
func (k *keeper) note(pid int, status syscall.WaitStatus) {
	switch {
	case status.Stopped():
		if pid == k.command {
			k.report(stopped, encodeStop(status.StopSignal(), k.resumes))
		}
		return
	case status.Continued():
		if pid == k.command {
			k.report(continued, 0)
		}
		return
	case pid == k.command:
		k.ended, k.status = true, status
		k.report(ended, int(status))
	}
	if _, ok := k.roots[pid]; ok || pid == k.command {
		k.changed = true
	}
}

// isOver reports whether no process of the work is left. Every process of the
// work has an ancestor, or is one, that is a root. Where it is not known, k is
// changed.
func (k *keeper) isOver() bool {
	if !k.ended {
		return false
	}
	for pid, session := range k.roots {
		k.changed = k.changed || sessionOf(pid) != session
	}
	// A process that was forked while /proc was read can be missed once.
	before := k.reaped
	for range 2 {
		if !k.changed && len(k.roots) > 0 {
			return false
		}
		members, err := k.members()
		switch {
		case errors.Is(err, errBlind):
			return groupGone(k.command)
		case err != nil:
			k.changed = true
			return false
		}
		k.changed, k.roots = false, map[int]int{}
		for _, p := range members {
			if p.parent == os.Getpid() {
				k.roots[p.pid] = p.session
			}
		}
	}
	if len(k.roots) > 0 {
		return false
	}
	// A child that has ended meanwhile may have left one behind that was not seen.
	k.reap()
	k.changed = k.reaped != before
	return !k.changed
}

// members returns the living processes of the work, those that are seen if there is
// an error.
func (k *keeper) members() (members []process, err error) {
	all, err := processes()
	children := map[int][]process{}
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p)
	}
	sessions := map[int]bool{sessionOf(os.Getpid()): true}
	maps.Copy(sessions, k.sessions)
	var add func(p process)
	add = func(p process) {
		members = append(members, p)
		sessions[p.session] = true
		for _, child := range children[p.pid] {
			add(child)
		}
	}
	// A process that belongs to the work can bring a session into it, and with
	// that another orphan.
	orphans := slices.DeleteFunc(children[os.Getpid()], func(p process) bool { return k.isStranger != nil && k.isStranger(p.pid) })
	for found := true; found; {
		found = false
		for i, p := range orphans {
			if p.pid != 0 && (p.pid == k.command || sessions[p.session] || k.keeps(p)) {
				found = true
				add(p)
				orphans[i].pid = 0
			}
		}
	}
	if k.sessions != nil {
		k.sessions = sessions
	}
	return members, err
}

// keeps reports whether an orphan belongs to the work though its session does not.
// Since the work was told to stop none leaves it any more.
func (k *keeper) keeps(orphan process) bool {
	return k.all || k.left != nil && !k.left[orphan.session]
}

// noteLeft notes, when the work is told to stop, which orphans have left it.
func (k *keeper) noteLeft() {
	if k.sessions == nil || k.left != nil {
		return
	}
	k.left = map[int]bool{}
	all, _ := processes() // what is not seen has not left
	for _, p := range all {
		if p.parent == os.Getpid() && !k.sessions[p.session] {
			k.left[p.session] = true
		}
	}
}

// signalAll sends a signal to all of the work. A process that is stopped would
// see it only when it is continued.
//
// A group that the work has made is sent the signal as a whole, so that no
// process of it escapes by forking.
func (k *keeper) signalAll(s syscall.Signal) {
	if s != syscall.SIGHUP && k.sessions == nil {
		k.sessions = map[int]bool{}
	}
	members, err := k.members()
	if errors.Is(err, errBlind) {
		members = []process{{pid: k.command, group: k.command}}
	}
	k.noteLeft()
	ours := map[int]bool{k.command: true}
	for _, p := range members {
		ours[p.pid] = true
	}
	var targets []int
	seen := map[int]bool{}
	for _, p := range members {
		target := p.pid
		if p.group != 0 && ours[p.group] { // 0 is a group outside, and to kill the own one
			target = -p.group
		}
		if !seen[target] {
			seen[target] = true
			targets = append(targets, target)
		}
	}
	for _, signal := range []syscall.Signal{s, syscall.SIGCONT} {
		for _, target := range targets {
			_ = syscall.Kill(target, signal) // fails if it is gone, or may not be signalled
		}
	}
}

// signalGroup sends a signal to the command's group, if that is there.
func (k *keeper) signalGroup(s syscall.Signal) {
	members, err := k.members()
	there := !k.ended || err != nil
	for _, p := range members {
		there = there || p.group == k.command
	}
	if there {
		_ = syscall.Kill(-k.command, s) // fails if it may not be signalled
	}
}

// groupGone reports whether a process group is empty. A member that
// may not be signalled is a member.
func groupGone(group int) bool {
	return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
}
