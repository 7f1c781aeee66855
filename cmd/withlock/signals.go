package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// passedOn are the signals that the command gets in withlock's stead.
var passedOn = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// catchSignals returns the signals to pass on, as they arrive. One that was
// ignored when the program began, as nohup does it, stays ignored, by the
// command too.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 16)
	for _, s := range passedOn {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	return signals
}

// interrupted is the cause of a ctx that a signal has ended.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// interruptible returns a ctx that ends with the first of signals. After stop,
// which ends it too, no signal is taken out of the channel any more.
func interruptible(ctx context.Context, signals <-chan os.Signal) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	enough, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case s := <-signals:
			cancel(interrupted{s.(syscall.Signal)})
		case <-enough:
		}
	}()
	return ctx, func() {
		close(enough)
		<-stopped
		cancel(nil)
	}
}
