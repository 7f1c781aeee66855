package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is goroutines that take turns at hot keys, and hold them for a while.
type load struct {
	goroutines, keys int
	hold             time.Duration
}

// observation is what one round of a load came to.
type observation struct {
	turns  float64 // a second
	probes []time.Duration
	cut    time.Duration // how long the last probe had waited if it is one of probes, else 0
	inUse  float64
	peak   int
}

// isCut reports whether d is no more than what a probe had waited when the
// round was over.
func (o *observation) isCut(d time.Duration) bool { return d > 0 && d == o.cut }

// The probe takes its lock and waits a little, so as not to be a load itself.
const (
	probeKey    = -1
	probePause  = time.Millisecond
	samplePause = 2 * time.Millisecond
)

// watch is one observation in the making.
type watch struct {
	*bench
	rival
	load
	place *place

	counting atomic.Bool // the load has settled
	taken    atomic.Int64
	failed   chan error

	observation // probes, cut: the prober's; inUse, peak: the sampler's
}

// observe runs the load until it has settled and then for the slice, with a
// probe beside it. The rest of the load is then cancelled rather than waited
// for: two thousand turns of 3 ms would take six seconds.
func (b *bench) observe(ctx context.Context, p *place, r rival, l load, slice time.Duration) (observation, error) {
	w := &watch{bench: b, rival: r, load: l, place: p, failed: make(chan error, l.goroutines+3)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for n := range l.goroutines {
		wg.Go(func() { w.report(ctx, w.takeTurns(ctx, n)) })
	}
	wg.Go(func() { w.report(ctx, w.probe(ctx)) })
	wg.Go(func() { w.report(ctx, w.sample(ctx)) })
	w.report(ctx, b.pauses.pause(slice/3))
	w.counting.Store(true)
	start := time.Now()
	w.report(ctx, b.pauses.pause(slice))
	w.counting.Store(false)
	turns, elapsed := w.taken.Load(), time.Since(start)
	cancel()
	wg.Wait()
	close(w.failed)
	w.observation.turns = float64(turns) / elapsed.Seconds()
	return w.observation, <-w.failed
}

// report keeps an error that is not the end of the round.
func (w *watch) report(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		w.failed <- err
	}
}

func (w *watch) takeTurns(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx) // a request's own
	defer cancel()
	t := turn{worker: n, key: int64(n % w.keys), hold: func() error { return w.pauses.pause(w.hold) }}
	for ctx.Err() == nil {
		if err := w.rival.turn(ctx, t); err != nil {
			return err
		}
		if w.counting.Load() {
			w.taken.Add(1)
		}
	}
	return nil
}

// probe measures an uncontended lock through the same pool, over and over.
func (w *watch) probe(ctx context.Context) error {
	for {
		start := time.Now()
		err := w.rival.turn(ctx, turn{key: probeKey})
		took := time.Since(start)
		switch {
		case ctx.Err() != nil:
			w.cutShort(err, took)
			return nil
		case err != nil:
			return err
		case w.counting.Load():
			w.probes = append(w.probes, took)
		}
		if err := w.pauses.pause(probePause); err != nil {
			return err
		}
	}
}

// cutShort counts the probe that the end of the round cut short if it tells
// something: it has waited for longer than any other.
func (w *watch) cutShort(err error, waited time.Duration) {
	longest := !slices.ContainsFunc(w.probes, func(p time.Duration) bool { return p >= waited })
	if err != nil && longest {
		w.probes, w.cut = append(w.probes, waited), waited
	}
}

// sample watches the pool.
func (w *watch) sample(ctx context.Context) error {
	var sum, n int
	for ctx.Err() == nil {
		if err := w.pauses.pause(samplePause); err != nil {
			return err
		}
		if !w.counting.Load() {
			continue
		}
		inUse := w.place.db.Stats().InUse
		sum, n = sum+inUse, n+1
		w.peak = max(w.peak, inUse)
	}
	if n > 0 {
		w.inUse = float64(sum) / float64(n)
	}
	return nil
}
