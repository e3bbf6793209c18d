package report

import (
	"fmt"
	"slices"
)

// Sample are measured values of one kind.
type Sample []float64

// Median is 0 without values.
func (s Sample) Median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Percentile p, of 0 to 100, is 0 without values.
func (s Sample) Percentile(p float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(p/100*float64(len(sorted))), len(sorted)-1)]
}

// Spread is "median [least–most]" with so many decimals.
func (s Sample) Spread(decimals int) string {
	if len(s) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f [%.*f–%.*f]", decimals, s.Median(), decimals, slices.Min(s), decimals, slices.Max(s))
}
