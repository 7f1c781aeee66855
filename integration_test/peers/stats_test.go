package main

import (
	"math"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{1, 1, 1, 1000}, 1},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median(%v) = %v, want %v", test.values, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestMedianLeavesItsArgumentAlone(t *testing.T) {
	values := []float64{3, 1, 2}
	median(values)
	if values[0] != 3 {
		t.Errorf("values are now %v", values)
	}
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for n := range 100 {
		hundred = append(hundred, time.Duration(100-n))
	}
	for _, test := range []struct {
		durations []time.Duration
		p         float64
		want      time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{5}, 99, 5},
		{[]time.Duration{2, 1}, 50, 1},
		{hundred, 0, 1},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
	} {
		if got := percentile(test.durations, test.p); got != test.want {
			t.Errorf("percentile %v of %d durations = %d, want %d", test.p, len(test.durations), got, test.want)
		}
	}
}

// A machine that gets slower and slower does not change a ratio.
func TestRatioIsWithinRounds(t *testing.T) {
	a, b := []float64{200, 100, 20}, []float64{100, 50, 10}
	if got := ratio(a, b); got != 2 {
		t.Errorf("ratio = %v, want 2", got)
	}
	if got := ratio(a, []float64{0, 0, 10}); got != 2 {
		t.Errorf("ratio where rounds came to nothing = %v, want 2", got)
	}
	if got := ratio(nil, b); !math.IsNaN(got) {
		t.Errorf("ratio of nothing = %v, want NaN", got)
	}
}
