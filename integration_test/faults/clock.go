package main

import "golang.org/x/sys/unix"

// clock is a time in nanoseconds. All processes of the machine have the same
// clock, which is never set back: what happened before something else has the
// smaller time, in whatever process.
func clock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock exists on every system that this builds for
	}
	return t.Nano()
}
