package main

import "time"

// A plan says what to measure, and for how long.
type plan struct {
	name   string
	delays []time.Duration // added to each message

	uncontended timing
	undelayed   int   // rounds where no latency is added: there the rounds differ most
	workers     []int // goroutines, each with a lock of its own

	hot        timing
	goroutines []int // that want one key
	holds      []time.Duration

	crowd   timing
	crowdOf int
	hotKeys []int // that the crowd wants

	exec   timing
	execOf int   // goroutines
	growth []int // distinct keys, ascending

	allocRounds, allocTurns int

	sessions sessionPlan
}

// timing is how often each competitor gets how much time. They alternate, so
// that whatever disturbs the machine disturbs all of them.
type timing struct {
	rounds int
	slice  time.Duration
}

// What the requirements are stated for.
const (
	poolSize    = 12
	execPool    = 32
	shortDelay  = 500 * time.Microsecond
	longDelay   = 2 * time.Millisecond
	hold        = 3 * time.Millisecond
	crowdSize   = 200
	execWorkers = 64
	allKeys     = 100_000
)

// fullPlan takes twelve minutes.
func fullPlan() plan {
	return plan{
		name:        "full",
		delays:      []time.Duration{0, shortDelay, longDelay},
		uncontended: timing{21, 80 * time.Millisecond},
		undelayed:   61,
		workers:     []int{1, 8},
		hot:         timing{3, 800 * time.Millisecond},
		goroutines:  []int{8, 64, 512, 2048},
		holds:       []time.Duration{0, hold},
		crowd:       timing{9, 800 * time.Millisecond},
		crowdOf:     crowdSize,
		hotKeys:     []int{1, 5, 12},
		exec:        timing{9, 300 * time.Millisecond},
		execOf:      execWorkers,
		growth:      []int{1, 10, 100, 1000, 10_000, allKeys},
		allocRounds: 5,
		allocTurns:  1000,
		sessions:    sessionPlan{handOvers: 500, turns: timing{9, 300 * time.Millisecond}, timeouts: 1000, shareable: 10_000},
	}
}

// shortPlan measures the same within two minutes, and less exactly.
func shortPlan() plan {
	p := fullPlan()
	p.name = "short"
	p.uncontended = timing{5, 50 * time.Millisecond}
	p.undelayed = 5
	p.hot = timing{1, 400 * time.Millisecond}
	p.crowd = timing{3, 500 * time.Millisecond}
	p.exec = timing{3, 200 * time.Millisecond}
	p.growth = []int{1, 10, 100, 1000, 10_000}
	p.allocRounds, p.allocTurns = 3, 300
	p.sessions = sessionPlan{handOvers: 200, turns: timing{5, 200 * time.Millisecond}, timeouts: 200, shareable: 10_000}
	return p
}

// Rounds, Undelayed, Slice and CrowdOf are for the document.
func (p plan) Rounds() int          { return p.uncontended.rounds }
func (p plan) Undelayed() int       { return p.undelayed }
func (p plan) Slice() time.Duration { return p.uncontended.slice }
func (p plan) CrowdOf() int         { return p.crowdOf }
