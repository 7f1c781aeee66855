package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// A verdict is one requirement, and what became of it in this run.
type verdict struct {
	what     string
	goal     string
	measured string
	known    bool // it was measured
	holds    bool
}

func (v verdict) word() string {
	switch {
	case !v.known:
		return "not measured"
	case v.holds:
		return "holds"
	}
	return "DOES NOT HOLD"
}

// bound is a requirement on one number. No number, no verdict.
type bound struct {
	format string
	ok     func(x float64) bool
}

func atLeast(x float64) bound {
	return bound{fmt.Sprintf("≥ %.2f", x), func(v float64) bool { return v >= x }}
}

func atMost(x float64) bound {
	return bound{fmt.Sprintf("≤ %.2f", x), func(v float64) bool { return v <= x }}
}

func (b bound) judge(what string, value float64) verdict {
	v := verdict{what: what, goal: b.format, measured: "–"}
	if !math.IsNaN(value) {
		v.known, v.holds, v.measured = true, b.ok(value), fmt.Sprintf("%.3f", value)
	}
	return v
}

// verdicts judges everything that is required of the library's speed.
func (r *results) verdicts(p plan) []verdict {
	var all []verdict
	all = append(all, r.judgeUncontended()...)
	for _, delay := range p.delays {
		all = append(all, r.judgeUpdate(delay, p.workers))
	}
	for _, keys := range p.hotKeys {
		all = append(all, r.judgeCrowd(keys, p.crowdOf)...)
	}
	all = append(all, r.judgeHotKey(p.crowdOf))
	all = append(all, r.judgeEmptySections(p.goroutines[0]))
	for _, hold := range p.holds {
		all = append(all, r.judgeConnections(hold, p.goroutines))
	}
	exec := r.statement(shortDelay)
	all = append(all, atLeast(8).judge("Exec / WithTx, one hot key, one statement, 0.5 ms", ratio(of(exec, nameExec), of(exec, nameOurs))))
	all = append(all, r.judgeMemory()...)
	return append(all, r.sessions.judge()...)
}

func (r *results) judgeUncontended() []verdict {
	var all []verdict
	for _, g := range []struct {
		delay         time.Duration
		workers       int
		ours, against string
		goal          float64
	}{
		{0, 8, nameOurs, nameBare, 0.85},
		{0, 1, nameOurs, nameBare, 0.80},
		{0, 8, nameOurs, nameHand, 1.05},
		{0, 1, nameOurs, nameHand, 1.05},
		{shortDelay, 8, nameOurs, nameHand, 1.45},
		{shortDelay, 1, nameOurs, nameHand, 1.45},
		{shortDelay, 8, nameOurs, nameSession, 1.9},
		{shortDelay, 1, nameOurs, nameSession, 1.9},
		{0, 8, nameOursPgx, nameHandPgx, 1.05},
		{0, 1, nameOursPgx, nameHandPgx, 1.05},
		{shortDelay, 8, nameOursPgx, nameHandPgx, 1.45},
		{shortDelay, 1, nameOursPgx, nameHandPgx, 1.45},
	} {
		c := r.contest(g.delay, g.workers, false)
		what := fmt.Sprintf("%s / %s, uncontended, empty fn, %s, %s", shortName(g.ours), g.against, latency(g.delay), count(g.workers, "goroutine"))
		all = append(all, atLeast(g.goal).judge(what, ratio(of(c, g.ours), of(c, g.against))))
	}
	return all
}

// shortName is a name of ours without the product's.
func shortName(ours string) string { return strings.TrimPrefix(ours, "pgadvisory ") }

// judgeUpdate compares with the competitor that comes closest: WithTx is ahead
// of it where there is a latency, and not far behind where there is none. The
// bare driver and bytes are no way to take turns, and golang-migrate's Run is no
// transaction that the caller's code runs in; those on a pgxpool do without
// database/sql. All are in the tables.
func (r *results) judgeUpdate(delay time.Duration, workers []int) verdict {
	lead, closest := math.NaN(), ""
	for _, n := range workers {
		c := r.contest(delay, n, true)
		for _, s := range c {
			switch s.competitor {
			case nameOurs, nameBare, nameBytes, nameRun, nameOursPgx, nameHandPgx:
				continue
			}
			if x := ratio(of(c, nameOurs), s.values); math.IsNaN(lead) || x < lead {
				lead, closest = x, fmt.Sprintf(" (%s, %s)", s.competitor, count(n, "goroutine"))
			}
		}
	}
	goal := bound{"> 1", func(v float64) bool { return v > 1 }}
	if delay == 0 {
		goal = atLeast(0.95)
	}
	return goal.judge(fmt.Sprintf("WithTx / the best of the others, one UPDATE in the transaction, %s%s", latency(delay), closest), lead)
}

func (r *results) judgeCrowd(keys, goroutines int) []verdict {
	idle := find(r.crowd, nameOurs, 0, 0, 0)
	beside := find(r.crowd, nameOurs, goroutines, keys, hold)
	what := fmt.Sprintf("%%s of an uncontended lock beside %s with %d goroutines / idle", count(keys, "hot key"), goroutines)
	return []verdict{
		atMost(1.5).judge(fmt.Sprintf(what, "p50"), ratio(beside.p50, idle.p50)),
		atMost(2).judge(fmt.Sprintf(what, "p99"), ratio(beside.p99, idle.p99)),
	}
}

func (r *results) judgeHotKey(goroutines int) verdict {
	ours := find(r.crowd, nameOurs, goroutines, 1, hold)
	hand := find(r.crowd, nameHand, goroutines, 1, hold)
	what := fmt.Sprintf("turns of one hot key with %d goroutines, WithTx / hand-written with the whole pool", goroutines)
	return atLeast(0.95).judge(what, ratio(ours.turns, hand.turns))
}

// judgeEmptySections compares turns of a key that many want, and that each gives
// back at once.
func (r *results) judgeEmptySections(goroutines int) verdict {
	ours := find(r.hot, nameOurs, goroutines, 1, 0)
	hand := find(r.hot, nameHand, goroutines, 1, 0)
	what := fmt.Sprintf("turns of one hot key given back at once, %d goroutines, WithTx / hand-written", goroutines)
	return atLeast(0.9).judge(what, ratio(ours.turns, hand.turns))
}

// judgeConnections takes a mean of one connection more for flat.
func (r *results) judgeConnections(hold time.Duration, goroutines []int) verdict {
	few, many := goroutines[0], goroutines[len(goroutines)-1]
	first := find(r.hot, nameOurs, few, 1, hold)
	last := find(r.hot, nameOurs, many, 1, hold)
	what := fmt.Sprintf("connections in use, hot key %s: with %d goroutines, more than with %d", held(hold), many, few)
	return atMost(1).judge(what, median(last.inUse)-median(first.inUse))
}

func (r *results) judgeMemory() []verdict {
	keys, bytes := r.growth.kept()
	all := []verdict{atMost(1).judge(fmt.Sprintf("memory kept after %d keys, MiB", keys), bytes/(1<<20))}
	for _, cancellable := range []bool{true, false} {
		extra := math.NaN()
		for _, a := range r.allocations {
			if a.cancellable == cancellable {
				extra = a.extra()
			}
		}
		what := fmt.Sprintf("allocations, WithTx with one UPDATE, more than BeginTx, Exec, Commit; the context %s", contextName(cancellable))
		all = append(all, atMost(15).judge(what, extra))
	}
	return all
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// latency names an added latency.
func latency(d time.Duration) string {
	if d == 0 {
		return "no added latency"
	}
	return fmt.Sprintf("%v ms a message", milliseconds(d))
}
