//go:build unix

package supervise

// process is a living process.
type process struct{ pid, parent, group, session int }
