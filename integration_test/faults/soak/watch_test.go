package main

import (
	"io"
	"strings"
	"testing"
)

// A series that grows is an error of the run; what goes up and down, and what
// grows while pools and caches fill, is none.
func TestReport(t *testing.T) {
	const n = 90
	for name, test := range map[string]struct {
		value func(i int) float64 // of each sample, over what chance may add
		grows bool
	}{
		"flat":          {func(int) float64 { return 7 }, false},
		"up and down":   {func(i int) float64 { return float64(i % 5) }, false},
		"filling":       {func(i int) float64 { return float64(min(i, n/3)) }, false},
		"leaking":       {func(i int) float64 { return float64(i) / 10 }, true},
		"up at the end": {func(i int) float64 { return float64(i / (n * 3 / 4) * 9) }, true},
	} {
		for at := range newWatch(nil).all {
			w := newWatch(nil)
			for i, s := range w.all {
				for j := range n {
					value := 1.0
					if i == at {
						value = s.chance * test.value(j)
					}
					s.samples = append(s.samples, value)
				}
			}
			t.Run(name+", "+w.all[at].name, func(t *testing.T) {
				err := w.report(io.Discard)
				if grows := err != nil && strings.Contains(err.Error(), w.all[at].name); grows != test.grows || (err != nil) != grows {
					t.Errorf("the report is %v, want that it grows: %t", err, test.grows)
				}
			})
		}
	}
}

// Too few samples show nothing.
func TestReportOfFewSamples(t *testing.T) {
	w := newWatch(nil)
	for _, s := range w.all {
		s.samples = make([]float64, 9)
	}
	if err := w.report(io.Discard); err == nil {
		t.Error("9 samples are enough")
	}
}
