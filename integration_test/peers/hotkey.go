package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// contention is one row's worth of a hot key: what goroutines get done that
// all want it, and what happens meanwhile to others on the same pool.
type contention struct {
	competitor string
	goroutines int // 0: nobody, the probe is alone
	keys       int
	hold       time.Duration

	turns    []float64 // a second, one for each round, over all hot keys
	p50, p99 []float64 // seconds, of an uncontended lock
	inUse    []float64 // connections, mean over the round
	peak     int
	cut      [2]bool // p50, p99 is of a probe that was still waiting at the end of some round
}

func (c *contention) add(o observation) {
	c.turns = append(c.turns, o.turns)
	p50, p99 := percentile(o.probes, 50), percentile(o.probes, 99)
	c.p50, c.p99 = append(c.p50, p50.Seconds()), append(c.p99, p99.Seconds())
	c.cut = [2]bool{c.cut[0] || o.isCut(p50), c.cut[1] || o.isCut(p99)}
	c.inUse = append(c.inUse, o.inUse)
	c.peak = max(c.peak, o.peak)
}

// measureHot has everybody share one key, more and more goroutines of them.
func (b *bench) measureHot(ctx context.Context) ([]contention, error) {
	var all []contention
	for _, hold := range b.holds {
		for _, goroutines := range b.goroutines {
			var field []*contention
			for _, c := range hotField() {
				field = append(field, &contention{competitor: c.name, goroutines: goroutines, keys: 1, hold: hold})
			}
			b.say("one hot key: %d goroutines, %s", goroutines, held(hold))
			if err := b.contend(ctx, b.hot, field); err != nil {
				return nil, err
			}
			for _, c := range field {
				all = append(all, *c)
			}
		}
	}
	return all, nil
}

// measureCrowd compares idle values of an uncontended lock with those beside a
// crowd that wants a few hot keys.
func (b *bench) measureCrowd(ctx context.Context) ([]contention, error) {
	field := []*contention{
		{competitor: nameOurs, keys: 0},
		{competitor: nameHand, keys: 0},
	}
	for _, keys := range b.hotKeys {
		for _, name := range []string{nameOurs, nameHand} {
			field = append(field, &contention{competitor: name, goroutines: b.crowdOf, keys: keys, hold: hold})
		}
	}
	b.say("%d goroutines on %v hot keys, %s", b.crowdOf, b.hotKeys, held(hold))
	if err := b.contend(ctx, b.crowd, field); err != nil {
		return nil, err
	}
	var all []contention
	for _, c := range field {
		all = append(all, *c)
	}
	return all, nil
}

// contend measures a field, in alternation, on one pool.
func (b *bench) contend(ctx context.Context, t timing, field []*contention) (err error) {
	p := b.server.place(0, 1, poolSize)
	defer func() { err = errors.Join(err, p.close()) }()
	rivals, err := enter(ctx, p, hotField(), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(rivals)) }()
	for range t.rounds {
		for _, i := range rand.Perm(len(field)) {
			c := field[i]
			if err := p.fill(ctx); err != nil {
				return err
			}
			o, err := b.observe(ctx, p, named(rivals, c.competitor), load{c.goroutines, c.keys, c.hold}, t.slice)
			if err != nil {
				return fmt.Errorf("%s, %d goroutines: %w", c.competitor, c.goroutines, err)
			}
			c.add(o)
		}
	}
	return nil
}

func named(rivals []rival, name string) rival {
	for _, r := range rivals {
		if r.name == name {
			return r
		}
	}
	panic("no competitor " + name)
}
