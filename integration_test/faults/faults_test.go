package main

import (
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgadvisory/pgadvisory/internal/pgtest"
)

func TestMain(m *testing.M) {
	if code, ok := asWorker(); ok {
		os.Exit(code)
	}
	// Else each worker sleeps a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	os.Exit(m.Run())
}

// The library keeps its promises under faults. `make faults` is the long way to
// ask.
func TestLibrary(t *testing.T) {
	length := 10 * time.Second
	if testing.Short() {
		length = 4 * time.Second
	}
	r := runFor(t, options{length: length, workers: 2})
	if len(r.violations) > 0 {
		t.Errorf("%d violations", len(r.violations))
	}
	if r.operations < 100 || len(r.faults) < 2 {
		t.Errorf("%d operations under %d kinds of faults, too little to show anything", r.operations, len(r.faults))
	}
}

// What the checks are worth: they find the mistake of each imitation.
func TestBroken(t *testing.T) {
	names := slices.Sorted(maps.Keys(imitations))
	if testing.Short() {
		names = []string{"no-lock"} // the quickest
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			// A run ends when the mistake is found: within seconds, where nothing else runs.
			r := runFor(t, options{length: 5 * time.Minute, workers: 3, broken: name, parent: t.TempDir()})
			if !imitations[name].shownBy(r.violations) {
				t.Errorf("its mistake was not found, in %d operations; violations are %+v", r.operations, r.violations)
			}
		})
	}
}

// runFor makes a run with a seed of its own, which is logged.
func runFor(t *testing.T, o options) *report {
	t.Helper()
	pgtest.Need(t)
	o.seed = uint64(rand.Uint32()) | 1
	var out strings.Builder
	o.out = &out
	r, err := execute(t.Context(), o)
	t.Logf("seed %d\n%s", o.seed, &out)
	if err != nil {
		t.Fatal(err)
	}
	var summary strings.Builder
	r.write(&summary)
	t.Log(summary.String())
	return r
}
