//go:build !linux

package main

import "time"

// An alarm waits until a moment. Where the runtime waits in kqueue, whose
// timeout is in nanoseconds, time.Sleep is good enough.
type alarm struct{}

func newAlarm() (*alarm, error) { return &alarm{}, nil }

// until waits until moment, or returns at once if that is past.
func (a *alarm) until(moment time.Time) error {
	time.Sleep(time.Until(moment))
	return nil
}

func (a *alarm) close() error { return nil }
