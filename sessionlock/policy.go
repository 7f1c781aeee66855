package sessionlock

import (
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// How long the messages on a session go on once their ctx has ended: see also
// [interrupt.Waiting].
var (
	asking   = interrupt.Policy{DeadlineDelay: time.Second}
	holding  = interrupt.Policy{CancelRequest: true, DeadlineDelay: 2 * time.Second}
	checking = interrupt.Policy{}
	leaving  = interrupt.Policy{CancelRequest: true, DeadlineDelay: time.Second}
)

// Unlock is not bound by any ctx of the caller's: the lock of a call that was
// cancelled must be given back as well.
const (
	// unlockPatience is what a statement of the caller's gets that still runs,
	// and then the unlock: after it they are cancelled, and a second later the
	// connection is cut.
	unlockPatience = 4 * time.Second

	// poolPatience is for what is open on the connection to be closed, and for the end
	// of a lock to be told on another goroutine.
	poolPatience = time.Second
)
