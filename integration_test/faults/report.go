package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A report is what a run came to.
type report struct {
	seed       uint64
	took       time.Duration
	operations int
	verbs      map[string]map[string]int // how many, by verb and outcome
	faults     map[string]int
	longest    time.Duration // from the begin of a call to its callback
	violations []violation
}

func newReport(h *history, seed uint64, took time.Duration, faults map[string]int) *report {
	r := &report{
		seed: seed, took: took, verbs: make(map[string]map[string]int), faults: faults, violations: h.violations,
	}
	for _, op := range h.ops {
		if op.call == nil {
			continue
		}
		verb := op.call.name()
		if r.verbs[verb] == nil {
			r.verbs[verb] = make(map[string]int)
		}
		r.operations++
		r.verbs[verb][cmp.Or(op.outcome, killed)]++
		if op.enter != 0 {
			r.longest = max(r.longest, time.Duration(op.enter-op.begin))
		}
	}
	return r
}

// killed is the outcome of a call whose process was killed.
const killed = "killed"

var outcomes = []string{committed, rolledBack, notAcquired, failed, lost, unknown, killed}

func (r *report) sumOfFaults() int {
	sum := 0
	for _, n := range r.faults {
		sum += n
	}
	return sum
}

// kinds are the names of the faults that were done.
func (r *report) kinds() []string { return slices.Sorted(maps.Keys(r.faults)) }

// write writes the report for people.
func (r *report) write(out io.Writer) {
	fmt.Fprintf(out, "seed %d, %v\n\n", r.seed, r.took.Round(time.Second))
	fmt.Fprintf(out, "%d operations; the longest wait for a lock was %v\n", r.operations, r.longest.Round(time.Millisecond))
	fmt.Fprintf(out, "%-22s", "")
	for _, outcome := range outcomes {
		fmt.Fprintf(out, "%13s", outcome)
	}
	fmt.Fprintln(out)
	for _, verb := range slices.Sorted(maps.Keys(r.verbs)) {
		fmt.Fprintf(out, "%-22s", verb)
		for _, outcome := range outcomes {
			fmt.Fprintf(out, "%13d", r.verbs[verb][outcome])
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "\n%d faults of %d kinds\n", r.sumOfFaults(), len(r.faults))
	for _, kind := range r.kinds() {
		fmt.Fprintf(out, "%6d %s\n", r.faults[kind], kind)
	}
	fmt.Fprintf(out, "\n%d violations\n", len(r.violations))
}

// markdown writes the report for docs/reliability.md.
func (r *report) markdown(out io.Writer) {
	fmt.Fprintf(out, "Seed %d, %v: %d operations, %d faults of %d kinds, %d violations. The longest wait for a lock was %v.\n\n",
		r.seed, r.took.Round(time.Second), r.operations, r.sumOfFaults(), len(r.faults), len(r.violations), r.longest.Round(100*time.Millisecond))
	fmt.Fprintf(out, "| verb | %s |\n|---%s|\n", strings.Join(outcomes, " | "), strings.Repeat("|---:", len(outcomes)))
	for _, verb := range slices.Sorted(maps.Keys(r.verbs)) {
		fmt.Fprintf(out, "| %s |", verb)
		for _, outcome := range outcomes {
			fmt.Fprintf(out, " %d |", r.verbs[verb][outcome])
		}
		fmt.Fprintln(out)
	}
	fmt.Fprint(out, "\n| fault | times |\n|---|---:|\n")
	for _, kind := range r.kinds() {
		fmt.Fprintf(out, "| %s | %d |\n", kind, r.faults[kind])
	}
}

// explain writes the first violations, each with what happened to its key
// around it, and for each of their keys a file with its whole history.
func (h *history) explain(out io.Writer, dir string) error {
	const most = 5
	written := make(map[int]bool)
	for i, v := range h.violations {
		if i == most {
			fmt.Fprintf(out, "… and %d more\n", len(h.violations)-most)
			break
		}
		fmt.Fprintf(out, "VIOLATION key %d, operation %d: %s\n", v.key, v.op, v.text)
		if written[v.key] || h.ops[v.op] == nil || h.ops[v.op].call == nil {
			continue
		}
		written[v.key] = true
		name := filepath.Join(dir, fmt.Sprintf("history-%d.txt", v.key))
		if err := h.writeKey(name, v.key); err != nil {
			return err
		}
		fmt.Fprintf(out, "the whole history of the key is in %s; around the operation:\n", name)
		ops := h.of(v.key)
		at := slices.Index(ops, h.ops[v.op])
		for _, r := range ops[max(0, at-8):min(len(ops), at+9)] {
			fmt.Fprintln(out, "\t"+r.String())
		}
	}
	return nil
}

func (h *history) writeKey(name string, key int) (err error) {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	lines := bufio.NewWriter(file)
	for _, r := range h.of(key) {
		fmt.Fprintln(lines, r)
	}
	if key < registers {
		fmt.Fprintln(lines, "the chain, as n, operation, token:")
		for _, row := range h.chains[key] {
			fmt.Fprintln(lines, row.n, row.op, row.token)
		}
	}
	return lines.Flush()
}

// String is one line of a history. Times are in milliseconds of the machine's
// clock.
func (r *record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %v", r.id, r.call)
	for _, t := range []struct {
		name string
		at   int64
	}{
		{"begin", r.begin}, {"enter", r.enter}, {"held", r.proved}, {"told", r.told}, {"leave", r.leave}, {"end", r.end},
	} {
		if t.at != 0 {
			fmt.Fprintf(&b, " %s %.3f", t.name, float64(t.at)/1e6)
		}
	}
	if r.token != 0 {
		fmt.Fprintf(&b, " token %d", r.token)
	}
	for _, e := range r.reads {
		fmt.Fprintf(&b, " read %d", e.N)
	}
	for _, e := range r.writes {
		fmt.Fprintf(&b, " wrote %d to %d", e.N, e.Key)
	}
	for _, e := range r.refused {
		fmt.Fprintf(&b, " refused with token %d", e.Token)
	}
	fmt.Fprintf(&b, ": %s", cmp.Or(r.outcome, killed))
	if r.text != "" {
		fmt.Fprintf(&b, " (%s)", r.text)
	}
	return b.String()
}

// ids are the operations' numbers.
func ids(ops []*record) string {
	var names []string
	for _, r := range ops {
		names = append(names, fmt.Sprint(r.id))
	}
	return strings.Join(names, ", ")
}
