package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// bench is one run of the program.
type bench struct {
	plan
	server     *server
	pauses     *pauses
	background bool // turns get a context that cannot be cancelled
	progress   io.Writer
	start      time.Time
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "%4.0fs  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}

// turnContext is the context of a worker's turns: one that can be cancelled
// and has values of its own, as that of a request.
func (b *bench) turnContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.background {
		return context.WithoutCancel(ctx), func() {}
	}
	return context.WithCancel(ctx)
}

// series is a competitor's values, one for each round.
type series struct {
	competitor string
	values     []float64
}

// A rival is a competitor that is ready.
type rival struct {
	competitor
	locker
}

// enter gets the competitors ready at p, each warmed up: its connections are
// open and its statements prepared.
func enter(ctx context.Context, p *place, field []competitor, update bool) (rivals []rival, err error) {
	for _, c := range field {
		if c.updateOnly && !update {
			continue
		}
		l, err := c.open(ctx, p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", c.name, err), leave(rivals))
		}
		rivals = append(rivals, rival{c, l})
	}
	return rivals, nil
}

func leave(rivals []rival) error {
	var errs []error
	for _, r := range rivals {
		if err := r.close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}

// alternate gives each rival its slices in turn, in an order that is drawn for
// each round: nobody always comes after the same one.
func alternate(t timing, rivals []rival, measure func(r rival) (float64, error)) ([]series, error) {
	all := make([]series, len(rivals))
	for i, r := range rivals {
		all[i].competitor = r.name
	}
	for range t.rounds {
		for _, i := range rand.Perm(len(rivals)) {
			value, err := measure(rivals[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rivals[i].name, err)
			}
			all[i].values = append(all[i].values, value)
		}
	}
	return all, nil
}

// turnsPerSecond has workers take turns for the given time, and returns how
// many they took in a second.
func (b *bench) turnsPerSecond(ctx context.Context, r rival, workers int, slice time.Duration, next func(worker int) turn) (float64, error) {
	var (
		wg     sync.WaitGroup
		turns  atomic.Int64
		failed = make(chan error, workers)
		start  = time.Now()
	)
	for worker := range workers {
		wg.Go(func() {
			n, err := b.takeTurns(ctx, r, next(worker), start.Add(slice))
			turns.Add(n)
			if err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	close(failed)
	return float64(turns.Load()) / elapsed.Seconds(), <-failed
}

// takeTurns takes turns until end, and one in any case.
func (b *bench) takeTurns(ctx context.Context, r rival, t turn, end time.Time) (n int64, err error) {
	ctx, cancel := b.turnContext(ctx)
	defer cancel()
	for n == 0 || time.Now().Before(end) {
		if err := r.turn(ctx, t); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
