package main

import (
	"context"
	"errors"
	"time"
)

// contest is one table's worth of turns without contention.
type contest struct {
	delay   time.Duration
	workers int
	update  bool
	series  []series // turns a second
}

// measureUncontended has everybody take locks that nobody else wants.
func (b *bench) measureUncontended(ctx context.Context) ([]contest, error) {
	var contests []contest
	for _, delay := range b.delays {
		for _, workers := range b.workers {
			for _, update := range []bool{false, true} {
				c := contest{delay: delay, workers: workers, update: update}
				b.say("uncontended: %s, %s, update %t", latency(delay), count(workers, "goroutine"), update)
				if err := b.measureContest(ctx, &c); err != nil {
					return nil, err
				}
				contests = append(contests, c)
			}
		}
	}
	return contests, nil
}

func (b *bench) measureContest(ctx context.Context, c *contest) (err error) {
	// Some need a second connection for their transaction.
	p := b.server.place(c.delay, c.workers, 2*c.workers)
	defer func() { err = errors.Join(err, p.close()) }()
	rivals, err := enter(ctx, p, uncontendedField(), c.update)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(rivals)) }()
	next := func(worker int) turn {
		return turn{worker: worker, key: int64(worker), update: c.update}
	}
	warmUp := timing{1, b.uncontended.slice / 2}
	measured := b.uncontended
	if c.delay == 0 {
		measured.rounds = b.undelayed
	}
	for _, t := range []timing{warmUp, measured} {
		c.series, err = alternate(t, rivals, func(r rival) (float64, error) {
			return b.turnsPerSecond(ctx, r, c.workers, t.slice, next)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// messages is how many messages a competitor sends for one turn, each in a
// round trip of its own.
type messages struct {
	competitor    string
	empty, update int // 0 where there is nothing to measure
}

// countMessages listens to one warm turn of every competitor.
func (b *bench) countMessages(ctx context.Context) (all []messages, err error) {
	for _, c := range explained() {
		m := messages{competitor: c.name}
		if !c.updateOnly {
			if m.empty, err = b.countOf(ctx, c, false); err != nil {
				return nil, err
			}
		}
		if m.update, err = b.countOf(ctx, c, true); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func (b *bench) countOf(ctx context.Context, c competitor, update bool) (int, error) {
	heard, err := b.listen(ctx, c, turn{update: update})
	return len(heard), err
}

// listen returns what the competitor writes in a warm turn.
func (b *bench) listen(ctx context.Context, c competitor, t turn) (heard [][]byte, err error) {
	var ear tap
	p := b.server.place(0, 1, 2, &ear)
	defer func() { err = errors.Join(err, p.close()) }()
	rivals, err := enter(ctx, p, []competitor{c}, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, leave(rivals)) }()
	for range 4 { // the pool hands its two connections out in turn
		ear.drain()
		if err := rivals[0].turn(ctx, t); err != nil {
			return nil, err
		}
		heard = ear.drain()
	}
	return heard, nil
}
