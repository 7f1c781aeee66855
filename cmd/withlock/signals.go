package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// catchSignals returns the signals to pass on, as they arrive.
func catchSignals() chan os.Signal {
	signals := make(chan os.Signal, 16)
	catch(signals, passedOn...)
	return signals
}

// catch adds to the signals to pass on. One that was ignored when the program
// began, as nohup does it, stays ignored, by the command too.
func catch(signals chan<- os.Signal, more ...os.Signal) {
	for _, s := range more {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
}

// interrupted is the cause of a ctx that a signal has ended.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// interruptible returns a ctx that ends with the first of signals that asks to
// end. After stop, which ends it too, no signal is taken out of the channel any
// more.
func interruptible(ctx context.Context, signals <-chan os.Signal) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	enough, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case s := <-signals:
				if ends(s) {
					cancel(interrupted{s.(syscall.Signal)})
					return
				}
			case <-enough:
				return
			}
		}
	}()
	return ctx, func() {
		close(enough)
		<-stopped
		cancel(nil)
	}
}
