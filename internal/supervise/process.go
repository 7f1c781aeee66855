//go:build unix

package supervise

import "errors"

// errBlind: the system does not show processes.
var errBlind = errors.New("processes cannot be seen")

// process is a living process.
type process struct{ pid, parent, group, session int }
