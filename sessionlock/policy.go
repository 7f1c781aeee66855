package sessionlock

import (
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// How long the messages on a pinned session go on once their ctx has ended.
var (
	asking   = interrupt.Policy{DeadlineDelay: time.Second}
	waiting  = interrupt.Policy{DeadlineGrace: 500 * time.Millisecond, CancelRequest: true, DeadlineDelay: 2 * time.Second}
	holding  = interrupt.Policy{CancelRequest: true, DeadlineDelay: 5 * time.Second}
	checking = interrupt.Policy{}
	leaving  = interrupt.Policy{CancelRequest: true, DeadlineDelay: time.Second}
)
