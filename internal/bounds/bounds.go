// Package bounds is about the options that are times.
package bounds

import (
	"fmt"
	"math"
	"time"
)

// Times are options with their names.
type Times []struct {
	Name  string
	Value time.Duration
}

// Check returns an error that names the first option that is negative, or nil. pkg is
// the prefix of the message.
func (t Times) Check(pkg string) error {
	for _, o := range t {
		if o.Value < 0 {
			return fmt.Errorf("%s: Options.%s is negative: %v", pkg, o.Name, o.Value)
		}
	}
	return nil
}

// Longest returns how long after the grant the session of a holder ends that does not
// obey its ctx: after MaxHold and Grace, or 0 where MaxHold is 0, for never. A Grace of
// 0 is a second.
func Longest(maxHold, grace time.Duration) time.Duration {
	if grace == 0 {
		grace = time.Second
	}
	if maxHold == 0 {
		return 0
	}
	return Sum(maxHold, grace)
}

// Sum returns a + b, or the longest time there is. Neither is negative.
func Sum(a, b time.Duration) time.Duration { return min(a, math.MaxInt64-b) + b }
