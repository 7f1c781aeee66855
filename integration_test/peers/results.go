package main

import (
	"context"
	"math"
	"time"
)

// results is all that a run has measured. What was not asked for is empty.
type results struct {
	facts       []fact
	messages    []messages
	uncontended []contest
	hot         []contention
	crowd       []contention
	exec        []oneStatement
	growth      growth
	allocations []allocations
	sessions    sessions
}

// parts are the names that -only takes.
var parts = []string{"messages", "uncontended", "hot", "crowd", "exec", "growth", "allocs", "sessions"}

// measure runs the parts that are wanted.
func (b *bench) measure(ctx context.Context, wanted func(part string) bool) (r results, err error) {
	r.facts = facts(b.server.version, b)
	measure := map[string]func() error{
		"messages":    func() error { r.messages, err = b.countMessages(ctx); return err },
		"uncontended": func() error { r.uncontended, err = b.measureUncontended(ctx); return err },
		"hot":         func() error { r.hot, err = b.measureHot(ctx); return err },
		"crowd":       func() error { r.crowd, err = b.measureCrowd(ctx); return err },
		"exec":        func() error { r.exec, err = b.measureExec(ctx); return err },
		"growth":      func() error { r.growth, err = b.measureGrowth(ctx); return err },
		"sessions":    func() error { r.sessions, err = b.measureSessions(ctx); return err },
		"allocs":      func() error { r.allocations, err = b.measureAllocations(ctx); return err },
	}
	for _, part := range parts {
		if !wanted(part) {
			continue
		}
		if err := measure[part](); err != nil {
			return r, err
		}
	}
	return r, nil
}

// contest returns the values of one measurement without contention.
func (r *results) contest(delay time.Duration, workers int, update bool) []series {
	for _, c := range r.uncontended {
		if c.delay == delay && c.workers == workers && c.update == update {
			return c.series
		}
	}
	return nil
}

// statement returns the values of one measurement of Exec.
func (r *results) statement(delay time.Duration) []series {
	for _, s := range r.exec {
		if s.delay == delay {
			return s.series
		}
	}
	return nil
}

// of returns a competitor's values, nil where it has none.
func of(all []series, competitor string) []float64 {
	for _, s := range all {
		if s.competitor == competitor {
			return s.values
		}
	}
	return nil
}

// find returns a competitor's row.
func find(all []contention, competitor string, goroutines, keys int, hold time.Duration) *contention {
	for i, c := range all {
		if c.competitor == competitor && c.goroutines == goroutines && c.keys == keys && (c.hold == hold || keys == 0) {
			return &all[i]
		}
	}
	return &contention{}
}

// extra is how many allocations ours makes more, in the median; NaN where
// nothing was measured.
func (a *allocations) extra() float64 { return median(a.ours) - median(a.hand) }

// kept is what the library holds after all keys; NaN where nothing was
// measured.
func (g *growth) kept() (keys int, bytes float64) {
	if len(g.steps) == 0 {
		return allKeys, math.NaN()
	}
	last := g.steps[len(g.steps)-1]
	return last.keys, float64(last.bytes)
}
