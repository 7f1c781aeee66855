//go:build unix

package integration_test

import (
	"database/sql"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

// leadership is one time of one process as the leader, by its own account.
type leadership struct {
	of         *child
	token      uint64
	start, end time.Time // end is zero while it lasts
}

// election is three processes that want to lead.
type election struct {
	t        *testing.T
	dsn      string
	children []*child
}

// leaderships returns all of them so far, by token.
func (e *election) leaderships() []leadership {
	e.t.Helper()
	var all []leadership
	for _, c := range e.children {
		for _, line := range c.lines("leads", "ends") {
			token, err := strconv.ParseUint(line[1], 10, 64)
			if err != nil {
				e.t.Fatal(err)
			}
			nanoseconds, err := strconv.ParseInt(line[2], 10, 64)
			if err != nil {
				e.t.Fatal(err)
			}
			at := time.Unix(0, nanoseconds)
			if line[0] == "leads" {
				all = append(all, leadership{of: c, token: token, start: at})
			} else {
				all[len(all)-1].end = at // a process has one at a time
			}
		}
	}
	slices.SortFunc(all, func(a, b leadership) int { return a.start.Compare(b.start) })
	return all
}

// next waits for the leadership after n others and returns it.
func (e *election) next(n int) leadership {
	e.t.Helper()
	until(e.t, "there is a new leader", func() bool { return len(e.leaderships()) > n })
	return e.leaderships()[n]
}

func (e *election) add() {
	e.children = append(e.children, startChild(e.t, "lead", e.dsn))
}

// Three processes: whatever happens to the leader, there is exactly one new
// one, and no two at a time for longer than the old one needs to notice.
func TestLeadProcesses(t *testing.T) {
	t.Parallel()
	server := pgtest.Dedicated(t)
	e := &election{t: t, dsn: server.Database(t)}
	db := openDB(t, e.dsn)
	for range 3 {
		e.add()
	}
	e.next(0)
	for _, test := range []struct {
		name   string
		within time.Duration // the new leader
		end    func(leadership) (noticed func() time.Time)
	}{
		{"kill -9", time.Second, e.kill},
		{"pg_terminate_backend", time.Second, func(leadership) func() time.Time {
			exec(t, db, `select pg_terminate_backend(pid) from pg_locks where granted and`+inThisDatabase)
			return time.Now
		}},
		{"SIGSTOP", childOptions.DeadClient + 2*time.Second, e.stop},
		{"restart", 6 * time.Second, func(leadership) func() time.Time {
			server.Restart(t)
			until(t, "the test's own connections are new", func() bool { return db.Ping() == nil })
			return time.Now
		}},
		{"kill -9 again", time.Second, e.kill},
	} {
		e.awaitCandidates(db, 2)
		before := e.leaderships()
		old := before[len(before)-1]
		start := time.Now()
		noticed := test.end(old)
		leader := e.next(len(before))
		t.Logf("%s: a new leader after %v", test.name, leader.start.Sub(start))
		if took := leader.start.Sub(start); took > test.within {
			t.Errorf("%s: it took %v to get a new leader, want at most %v", test.name, took, test.within)
		}
		if leader.token <= old.token {
			t.Errorf("%s: token %d after %d", test.name, leader.token, old.token)
		}
		e.checkOverlap(test.name, len(before)-1, leader, noticed)
		if n := heldLocks(t, db); n != 1 {
			t.Errorf("%s: %d leaders", test.name, n)
		}
	}
}

// checkOverlap checks that the old leader does not lead on for longer than it
// takes it to notice, from when it could: the start of the new one, or later.
func (e *election) checkOverlap(name string, i int, leader leadership, noticed func() time.Time) {
	e.t.Helper()
	from := leader.start
	if could := noticed(); could.After(from) {
		from = could
	}
	var old leadership
	until(e.t, name+": the old leader is none any more", func() bool {
		old = e.leaderships()[i]
		select {
		case <-old.of.done:
			return true
		default:
			return !old.end.IsZero()
		}
	})
	if !old.end.IsZero() { // or it was killed
		overlap := old.end.Sub(from)
		e.t.Logf("%s: overlap %v", name, overlap)
		if bound := childOptions.Check + time.Second; overlap > bound {
			e.t.Errorf("%s: two leaders for %v, want at most %v", name, overlap, bound)
		}
	}
	if all := e.leaderships(); len(all) != i+2 {
		e.t.Errorf("%s: %d new leaders", name, len(all)-i-1)
	}
}

func (e *election) awaitCandidates(db *sql.DB, n int) {
	e.t.Helper()
	until(e.t, "there is a leader and candidates wait", func() bool {
		return heldLocks(e.t, db) == 1 && waitingLocks(e.t, db) == n
	})
}

// kill kills the leader, and starts another process in its place.
func (e *election) kill(leader leadership) func() time.Time {
	e.signal(leader, syscall.SIGKILL)
	return func() time.Time {
		e.add()
		return time.Time{}
	}
}

// stop stops the leader, which its kernel does not tell the server, and lets
// it go on when there is another one.
func (e *election) stop(leader leadership) func() time.Time {
	e.signal(leader, syscall.SIGSTOP)
	return func() time.Time {
		e.signal(leader, syscall.SIGCONT)
		return time.Now()
	}
}

func (e *election) signal(leader leadership, signal syscall.Signal) {
	e.t.Helper()
	if err := leader.of.cmd.Process.Signal(signal); err != nil {
		e.t.Fatal(err)
	}
}
