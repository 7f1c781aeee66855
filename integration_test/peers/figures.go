package main

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// figures are the plots of what was measured.
func (r *results) figures(p plan) ([]*figure, error) {
	var all []*figure
	for _, f := range []struct {
		measured bool
		draw     func(plan) (*figure, error)
	}{
		{len(r.uncontended) > 0, func(p plan) (*figure, error) { return r.uncontendedFigure(p, false) }},
		{len(r.uncontended) > 0, func(p plan) (*figure, error) { return r.uncontendedFigure(p, true) }},
		{len(r.hot) > 0, r.probeFigure},
		{len(r.hot) > 0, r.turnsFigure},
		{len(r.exec) > 0, r.execFigure},
		{len(r.growth.steps) > 0, r.growthFigure},
	} {
		if !f.measured {
			continue
		}
		drawn, err := f.draw(p)
		if err != nil {
			return nil, err
		}
		all = append(all, drawn)
	}
	return all, nil
}

// uncontendedFigure shows rates as a part of WithTx's, because the latencies
// lie far apart.
func (r *results) uncontendedFigure(p plan, update bool) (*figure, error) {
	workers := p.workers[len(p.workers)-1]
	name, title := "uncontended-empty", "Uncontended, empty fn, %s"
	if update {
		name, title = "uncontended-update", "Uncontended, one UPDATE in a transaction, %s"
	}
	f := newFigure(name, fmt.Sprintf(title, count(workers, "goroutine")), "", "turns a second, WithTx = 1")
	var groups []group
	for _, s := range r.contest(p.delays[0], workers, update) {
		g := group{name: s.competitor}
		for _, delay := range p.delays {
			c := r.contest(delay, workers, update)
			g.values = append(g.values, ratio(of(c, s.competitor), of(c, nameOurs)))
		}
		groups = append(groups, g)
	}
	return f, f.bars(groups, delayLabels(p.delays)...)
}

// probeFigure shows what a hot key does to others on the pool.
func (r *results) probeFigure(p plan) (*figure, error) {
	f := newFigure("hotkey-others", fmt.Sprintf("Another, uncontended lock on the same pool of %d: p50, and p99 dashed", poolSize),
		fmt.Sprintf("goroutines that want one hot key, %s", held(hold)), "ms")
	for _, c := range hotField() {
		if err := f.line(c.name, r.points(c.name, func(c contention) float64 { return 1000 * median(c.p50) }), false); err != nil {
			return nil, err
		}
		if err := f.line(c.name, r.points(c.name, func(c contention) float64 { return 1000 * median(c.p99) }), true); err != nil {
			return nil, err
		}
	}
	logarithmic(&f.plot.X)
	logarithmic(&f.plot.Y)
	f.plot.X.Tick.Marker = ticks(p.goroutines)
	return f, nil
}

// turnsFigure shows what the hot key itself gets done.
func (r *results) turnsFigure(p plan) (*figure, error) {
	f := newFigure("hotkey-turns", fmt.Sprintf("Turns of one hot key, %s, pool of %d", held(hold), poolSize),
		"goroutines that want it", "turns a second")
	for _, c := range hotField() {
		if err := f.line(c.name, r.points(c.name, func(c contention) float64 { return median(c.turns) }), false); err != nil {
			return nil, err
		}
	}
	logarithmic(&f.plot.X)
	f.plot.X.Tick.Marker = ticks(p.goroutines)
	f.plot.Y.Min = 0
	return f, nil
}

// points are a competitor's values over the number of goroutines. What is not
// positive has no place on a logarithmic axis.
func (r *results) points(competitor string, value func(contention) float64) plotter.XYs {
	var points plotter.XYs
	for _, c := range r.hot {
		if y := value(c); c.competitor == competitor && c.hold == hold && y > 0 {
			points = append(points, plotter.XY{X: float64(c.goroutines), Y: y})
		}
	}
	return points
}

func (r *results) execFigure(p plan) (*figure, error) {
	f := newFigure("exec", fmt.Sprintf("One UPDATE under one hot key, %d goroutines, pool of %d", execWorkers, execPool), "", "turns a second")
	var groups []group
	for _, c := range execField() {
		g := group{name: c.name}
		for _, delay := range p.delays {
			g.values = append(g.values, median(of(r.statement(delay), c.name)))
		}
		groups = append(groups, g)
	}
	return f, f.bars(groups, delayLabels(p.delays)...)
}

// growthFigure shows the heap beside what it may keep.
func (r *results) growthFigure(p plan) (*figure, error) {
	f := newFigure("growth", "Live heap after many distinct keys, compared with none", "keys, each taken twice at once", "KiB")
	var points plotter.XYs
	for _, s := range r.growth.steps {
		points = append(points, plotter.XY{X: float64(s.keys), Y: float64(s.bytes) / 1024})
	}
	if err := f.line(nameOurs, points, false); err != nil {
		return nil, err
	}
	allowed := plotter.NewFunction(func(float64) float64 { return 1024 })
	allowed.Color, allowed.Dashes = color.Gray{0x80}, []vg.Length{vg.Points(2), vg.Points(2)}
	f.plot.Add(allowed)
	f.legend.Add("allowed: 1 MiB", allowed)
	logarithmic(&f.plot.X)
	f.plot.X.Tick.Marker = ticks(p.growth)
	f.plot.Y.Min, f.plot.Y.Max = math.Min(f.plot.Y.Min, -100), 1100
	return f, nil
}
