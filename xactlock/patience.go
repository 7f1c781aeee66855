package xactlock

import (
	"time"

	"github.com/pgadvisory/pgadvisory/internal/interrupt"
)

// How long the messages of a call go on once their ctx has ended.
var (
	opening = interrupt.Patience{Give: 50 * time.Millisecond}
	waiting = interrupt.Patience{Slack: 250 * time.Millisecond, Cancel: true, Give: 50 * time.Millisecond}
	working = interrupt.Patience{Cancel: true, Give: time.Second} // fn's statements
	ending  = interrupt.Patience{Give: 5 * time.Second}

	// A pipeline that is cut leaves open whether its statement is committed,
	// so it gets more time than a wait for the lock does.
	pipelined = interrupt.Patience{Slack: 50 * time.Millisecond, Cancel: true, Give: time.Second}
)
