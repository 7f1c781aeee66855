package main

import (
	"math"
	"testing"
	"time"
)

func TestBounds(t *testing.T) {
	for _, test := range []struct {
		bound bound
		value float64
		want  string
	}{
		{atLeast(0.9), 0.9, "holds"},
		{atLeast(0.9), 0.89, "DOES NOT HOLD"},
		{atMost(2), 2, "holds"},
		{atMost(2), 2.01, "DOES NOT HOLD"},
		{atMost(2), math.NaN(), "not measured"},
		{atLeast(2), math.NaN(), "not measured"},
	} {
		if got := test.bound.judge("x", test.value).word(); got != test.want {
			t.Errorf("%s with %v: %s, want %s", test.bound.format, test.value, got, test.want)
		}
	}
}

func TestVerdictsWithoutAnyResult(t *testing.T) {
	var r results
	for _, v := range r.verdicts(fullPlan()) {
		if v.known || v.holds {
			t.Errorf("%s: %s, with nothing measured", v.what, v.word())
		}
	}
}

// The verdict on the UPDATE names the competitor that comes closest, on
// whatever number of goroutines, but not the bare driver.
func TestUpdateVerdictNamesTheClosest(t *testing.T) {
	r := results{uncontended: []contest{
		{workers: 1, update: true, series: []series{
			{nameOurs, []float64{100}}, {nameBare, []float64{200}}, {nameBytes, []float64{300}}, {nameHandPgx, []float64{200}}, {nameHand, []float64{50}},
		}},
		{workers: 8, update: true, series: []series{
			{nameOurs, []float64{100}}, {nameHand, []float64{60}}, {nameSession, []float64{80}},
		}},
	}}
	v := r.judgeUpdate(0, []int{1, 8})
	if !v.holds || v.measured != "1.250" {
		t.Errorf("verdict is %+v, want one that holds with 1.250", v)
	}
	if want := "WithTx / the best of the others, one UPDATE in the transaction, no added latency (session lock + transaction, 8 goroutines)"; v.what != want {
		t.Errorf("verdict is on %q, want %q", v.what, want)
	}
}

// Round trips put WithTx ahead. Where they cost nothing, it may be a little
// behind.
func TestUpdateVerdictDependsOnTheLatency(t *testing.T) {
	for _, test := range []struct {
		delay time.Duration
		ours  float64
		goal  string
		want  string
	}{
		{0, 95, "≥ 0.95", "holds"},
		{0, 94, "≥ 0.95", "DOES NOT HOLD"},
		{shortDelay, 101, "> 1", "holds"},
		{shortDelay, 100, "> 1", "DOES NOT HOLD"},
		{longDelay, 101, "> 1", "holds"},
		{longDelay, 99, "> 1", "DOES NOT HOLD"},
	} {
		r := results{uncontended: []contest{{delay: test.delay, workers: 1, update: true, series: []series{
			{nameOurs, []float64{test.ours}}, {nameHand, []float64{100}},
		}}}}
		if v := r.judgeUpdate(test.delay, []int{1}); v.goal != test.goal || v.word() != test.want {
			t.Errorf("%v with %v: %s %s, want %s %s", test.ours, test.delay, v.goal, v.word(), test.goal, test.want)
		}
	}
}
