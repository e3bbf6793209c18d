package main

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

// emptyLabel is a label in a legend that the series does not have.
var emptyLabel = regexp.MustCompile(`\{\{\w+\}\}`)

// format writes a value for people, in the units of Grafana that the dashboard has.
func format(v float64, unit string) string {
	switch unit {
	case "s":
		return seconds(v)
	case "bytes":
		for _, prefix := range []string{"B", "KiB", "MiB", "GiB"} {
			if math.Abs(v) < 1024 {
				return number(v) + " " + prefix
			}
			v /= 1024
		}
		return number(v) + " TiB"
	case "percentunit":
		return number(v*100) + " %"
	case "reqps":
		return number(v) + "/s"
	case "ops":
		return number(v) + "/s"
	}
	return number(v)
}

// number has three digits that matter.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return trim(strconv.FormatFloat(v, 'f', 1, 64))
	case a >= 0.01:
		return trim(strconv.FormatFloat(v, 'f', 2, 64))
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

func trim(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func seconds(v float64) string {
	for _, unit := range []struct {
		length float64
		name   string
	}{{86400, "days"}, {3600, "h"}, {60, "min"}, {1, "s"}, {1e-3, "ms"}} {
		if math.Abs(v) >= unit.length {
			return number(v/unit.length) + " " + unit.name
		}
	}
	if v == 0 {
		return "0 s"
	}
	return number(v*1e6) + " µs"
}

// shown is what a panel shows for a value, and the name of the color: mappings go before units and thresholds.
func shown(v float64, d board.Defaults) (text, color string) {
	for _, mapping := range d.Mappings {
		if option, ok := mapping.Options[number(v)]; ok && mapping.Type == "value" {
			return option.Text, option.Color
		}
	}
	for _, step := range d.Thresholds.Steps {
		if step.Value == nil || v >= *step.Value {
			color = step.Color
		}
	}
	return format(v, d.Unit), color
}

// ticks returns some round numbers from low to high, both included or surpassed.
func ticks(low, high float64, base float64) []float64 {
	if high <= low {
		high = low + 1
	}
	width := roundUp((high-low)/4, base)
	var all []float64
	for v := math.Floor(low/width) * width; ; v += width {
		all = append(all, v)
		if v >= high-width*1e-9 {
			return all
		}
	}
}

// roundUp returns the next of 1, 2, 2.5 and 5 times a power of the base.
func roundUp(v, base float64) float64 {
	power := math.Pow(base, math.Floor(math.Log(v)/math.Log(base)))
	for _, factor := range []float64{1, 2, 2.5, 5, 10, 20, 25, 50, 100, 128, 200, 250, 256, 500, 512} {
		if factor < base && factor*power >= v*(1-1e-9) {
			return factor * power
		}
	}
	return base * power
}

// clock writes the time since the beginning.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
