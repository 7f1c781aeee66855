package inspect

import (
	"cmp"
	"time"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

// A Lock is one session's hold on one advisory lock, or its wait for one. A
// session that holds a lock in both modes has one Lock for each.
type Lock struct {
	// Key is the number that the server locks. Results of [Of] have the
	// caller's own key, with its name.
	Key hashkey.Key

	Shared  bool // one of many readers, or asking to be one
	Granted bool // holds the lock, rather than waits for it

	// PID is the session's process on the server, 0 for a prepared transaction,
	// which belongs to no session and of which no more than this is known.
	PID int32

	Application string // application_name, as the client has set it
	User        string
	Client      string // address:port, or "[local]" on a Unix-domain socket
	State       string // "active", "idle in transaction", …
	Query       string // what it runs, or ran last; the server cuts it

	// Since is when the session's transaction began, or where it is in none, the
	// session. The server does not record when a lock was
	// granted: for one that a transaction took, it was after Since.
	Since time.Time

	// WaitStart is when the wait began: zero where Granted, for the first
	// moments of a wait, and before PostgreSQL 14.
	WaitStart time.Time

	// BlockedBy are the PIDs that this one waits for, in ascending order:
	// holders, and waiters ahead of it, where their mode conflicts with its own. It
	// is empty where Granted.
	BlockedBy []int32
}

// byQueue orders holders before waiters, and both by time. A wait of unknown start
// comes last, as it has only just begun.
func byQueue(a, b Lock) int {
	if a.Granted != b.Granted {
		if a.Granted {
			return -1
		}
		return 1
	}
	return cmp.Or(
		compareTimes(a.WaitStart, b.WaitStart),
		compareTimes(a.Since, b.Since),
		cmp.Compare(a.PID, b.PID),
	)
}

func compareTimes(a, b time.Time) int {
	if a.IsZero() != b.IsZero() {
		if a.IsZero() {
			return 1
		}
		return -1
	}
	return a.Compare(b)
}

func byKey(a, b Lock) int {
	return cmp.Or(hashkey.Compare(a.Key, b.Key), byQueue(a, b))
}
