package main

import (
	"context"
	"errors"
	"time"
)

// oneStatement is one statement under one hot lock, some latency away.
type oneStatement struct {
	delay  time.Duration
	series []series // turns a second
}

// measureExec compares Exec with a transaction around the same statement, on
// one hot key.
func (b *bench) measureExec(ctx context.Context) ([]oneStatement, error) {
	var all []oneStatement
	for _, delay := range b.delays {
		s := oneStatement{delay: delay}
		b.say("one statement on one hot key: %s", latency(delay))
		if err := b.measureStatement(ctx, &s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (b *bench) measureStatement(ctx context.Context, s *oneStatement) (err error) {
	p := b.server.place(s.delay, b.execOf, execPool)
	defer func() { err = errors.Join(err, p.close()) }()
	rivals, err := enter(ctx, p, execField(), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(rivals)) }()
	if err := p.fill(ctx); err != nil {
		return err
	}
	// Everybody updates the same row, as they would with the key that hot.
	next := func(int) turn { return turn{update: true} }
	warmUp := timing{1, b.exec.slice}
	for _, t := range []timing{warmUp, b.exec} {
		s.series, err = alternate(t, rivals, func(r rival) (float64, error) {
			return b.turnsPerSecond(ctx, r, b.execOf, t.slice, next)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
