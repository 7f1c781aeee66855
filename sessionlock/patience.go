package sessionlock

import (
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// How long the messages on a pinned session go on once their ctx has ended.
var (
	asking   = interrupt.Patience{Give: 50 * time.Millisecond}
	waiting  = interrupt.Patience{Slack: 250 * time.Millisecond, Cancel: true, Give: 50 * time.Millisecond}
	holding  = interrupt.Patience{Cancel: true, Give: 5 * time.Second}
	checking = interrupt.Patience{}
	leaving  = interrupt.Patience{Cancel: true, Give: time.Second}
)
