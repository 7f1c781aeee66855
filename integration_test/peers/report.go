package main

import (
	"fmt"
	"io"
	"math"
	"time"
)

// report writes all tables for a terminal, the verdicts last.
func (r *results) report(w io.Writer, p plan) {
	tables := []table{
		r.factTable(), r.competitorTable(),
		r.uncontendedTable(p, false), r.uncontendedTable(p, true),
	}
	for _, hold := range p.holds {
		tables = append(tables, r.hotTable(hold))
	}
	tables = append(tables, r.crowdTable(p), r.execTable(p), r.growthTable(), r.allocationTable(), r.sessionTable(), r.verdictTable(p))
	for _, t := range tables {
		if len(t.rows) > 0 {
			t.text(w)
		}
	}
}

func (r *results) factTable() table {
	t := table{title: "Where and what", header: []string{"", ""}, words: true}
	for _, f := range r.facts {
		t.add(f.name, f.value)
	}
	return t
}

// competitorTable says what everybody sends.
func (r *results) competitorTable() table {
	t := table{
		title:  "Who sends what",
		note:   "Round trips are counted on the wire: of an uncontended turn with an empty fn, and with one UPDATE in a transaction.",
		header: []string{"", "empty", "UPDATE", "sends"},
		words:  true,
	}
	field := explained()
	for i, m := range r.messages {
		t.add(m.competitor, dashed(m.empty), dashed(m.update), field[i].sends)
	}
	return t
}

func dashed(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

// uncontendedTable has a column for each latency and number of goroutines.
func (r *results) uncontendedTable(p plan, update bool) table {
	t := table{title: "Uncontended, empty fn: turns a second", header: []string{""}}
	if update {
		t.title = "Uncontended, one UPDATE in a transaction: turns a second"
	}
	for _, workers := range p.workers {
		for _, delay := range p.delays {
			t.header = append(t.header, fmt.Sprintf("%v ms, %d g", milliseconds(delay), workers))
		}
	}
	if len(r.uncontended) == 0 {
		return t
	}
	for _, s := range r.contest(p.delays[0], p.workers[0], update) {
		row := []string{s.competitor}
		for _, workers := range p.workers {
			for _, delay := range p.delays {
				row = append(row, number(median(of(r.contest(delay, workers, update), s.competitor))))
			}
		}
		t.add(row...)
	}
	return t
}

func (r *results) hotTable(hold time.Duration) table {
	t := table{
		title:  fmt.Sprintf("One hot key, %s, pool of %d", held(hold), poolSize),
		header: []string{"", "goroutines", "turns/s", "other lock p50", "p99", "connections", "peak"},
	}
	for _, c := range r.hot {
		if c.hold == hold {
			t.add(c.competitor, fmt.Sprint(c.goroutines), number(median(c.turns)), c.showP50(), c.showP99(),
				fmt.Sprintf("%.1f", median(c.inUse)), fmt.Sprint(c.peak))
		}
	}
	return t
}

func (c *contention) showP50() string { return show(c.p50, c.cut[0]) }
func (c *contention) showP99() string { return show(c.p99, c.cut[1]) }

// show writes a latency of the probe.
func show(seconds []float64, cut bool) string {
	s := fmt.Sprintf("%.2f ms", 1000*median(seconds))
	if cut {
		return "≥ " + s
	}
	return s
}

func (r *results) crowdTable(p plan) table {
	t := table{
		title:  fmt.Sprintf("%d goroutines on some hot keys, %s, pool of %d", p.crowdOf, held(hold), poolSize),
		header: []string{"", "hot keys", "turns/s", "other lock p50", "p99", "p50 / idle", "p99 / idle", "connections"},
	}
	for _, c := range r.crowd {
		idle := find(r.crowd, c.competitor, 0, 0, 0)
		t.add(c.competitor, fmt.Sprint(c.keys), number(median(c.turns)), c.showP50(), c.showP99(),
			fmt.Sprintf("%.2f", ratio(c.p50, idle.p50)), fmt.Sprintf("%.2f", ratio(c.p99, idle.p99)),
			fmt.Sprintf("%.1f", median(c.inUse)))
	}
	return t
}

func (r *results) execTable(p plan) table {
	t := table{
		title:  fmt.Sprintf("One UPDATE under one hot key, %d goroutines, pool of %d: turns a second", execWorkers, execPool),
		header: []string{""},
	}
	for _, delay := range p.delays {
		t.header = append(t.header, fmt.Sprintf("%v ms", milliseconds(delay)))
	}
	for _, c := range execField() {
		row := []string{c.name}
		for _, delay := range p.delays {
			row = append(row, number(median(of(r.statement(delay), c.name))))
		}
		if len(r.exec) > 0 {
			t.add(row...)
		}
	}
	return t
}

func (r *results) growthTable() table {
	t := table{title: "Growth: live heap after as many distinct keys, compared with none", header: []string{"keys", "KiB"}}
	for _, s := range r.growth.steps {
		t.add(fmt.Sprint(s.keys), fmt.Sprintf("%+.1f", float64(s.bytes)/1024))
	}
	if keys, _ := r.growth.kept(); len(t.rows) > 0 {
		t.note = fmt.Sprintf("Each key was taken twice at once; %d of the %d second calls had to wait.", r.growth.contended, keys)
	}
	return t
}

func (r *results) allocationTable() table {
	t := table{
		title:  "Allocations of one call with one UPDATE",
		header: []string{"context", "WithTx", "BeginTx, Exec, Commit", "difference"},
	}
	for _, a := range r.allocations {
		t.add(contextName(a.cancellable), fmt.Sprintf("%.1f", median(a.ours)), fmt.Sprintf("%.1f", median(a.hand)), fmt.Sprintf("%+.1f", a.extra()))
	}
	return t
}

func (r *results) verdictTable(p plan) table {
	t := table{
		title:  "Speed to reach",
		note:   "The best of the others is neither of the two that are bare, which is no way to take turns, nor golang-migrate's Run, which runs no transaction of the caller's.",
		header: []string{"", "goal", "measured", ""},
	}
	for _, v := range r.verdicts(p) {
		t.add(v.what, v.goal, v.measured, v.word())
	}
	return t
}

// held says for how long a lock is held.
func held(d time.Duration) string {
	if d == 0 {
		return "given back at once"
	}
	return fmt.Sprintf("held for %v ms", milliseconds(d))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// number writes a rate.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
