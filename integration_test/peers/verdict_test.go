package main

import (
	"math"
	"testing"
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

// The verdict on the UPDATE names whoever comes closest, on whatever number of
// goroutines, but not the bare driver.
func TestUpdateVerdictNamesTheClosest(t *testing.T) {
	r := results{uncontended: []contest{
		{workers: 1, update: true, series: []series{
			{nameOurs, []float64{100}}, {nameBare, []float64{200}}, {nameBytes, []float64{300}}, {nameHand, []float64{50}},
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
