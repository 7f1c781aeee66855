package main

import (
	"math"
	"slices"
	"time"
)

// median returns the middle of values, or the mean of the two in the middle;
// NaN where there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile returns the smallest of durations that p of 100 do not exceed; 0
// where there are none. It sorts durations.
func percentile(durations []time.Duration, p float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	slices.Sort(durations)
	rank := int(math.Ceil(p / 100 * float64(len(durations))))
	return durations[min(max(rank, 1), len(durations))-1]
}

// ratio is the median over the rounds of a's value to b's in the same round,
// a moment apart: what slows the whole machine down for a while drops out.
func ratio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return median(ratios)
}
