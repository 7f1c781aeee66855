package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm waits until a moment, to within some 0.1 ms, without keeping a
// thread. time.Sleep cannot: an idle Go program waits in epoll, whose timeout
// is in whole milliseconds, so that a sleep of 0.5 ms lasts 1.1. A timerfd is a
// file that becomes readable at the moment, and that ends epoll at once.
//
// It is for one goroutine at a time.
type alarm struct {
	fd   int
	file *os.File // of fd; os.File.Fd would make it blocking
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &alarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

// until waits until moment, or returns at once if that is past.
func (a *alarm) until(moment time.Time) error {
	d := time.Until(moment)
	if d <= 0 {
		return nil
	}
	in := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if err := unix.TimerfdSettime(a.fd, 0, &in, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	var expirations [8]byte
	_, err := a.file.Read(expirations[:])
	return err
}

func (a *alarm) close() error { return a.file.Close() }
