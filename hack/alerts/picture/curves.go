package main

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

const (
	axisWidth    = 50
	marksHeight  = 12
	timesHeight  = 16
	legendHeight = 15
	legendLines  = 3
	// between is the time between two numbers below a curve.
	between = 2 * time.Minute
)

// plot is the part of a panel with the curves: it knows where a value at a time is.
type plot struct {
	at         rectangle
	begin, end int64
	low, high  float64
}

func (p *plot) x(t int64) float64 {
	return p.at.x + p.at.w*float64(t-p.begin)/float64(p.end-p.begin)
}

func (p *plot) y(v float64) float64 { return p.at.y + p.at.h*(p.high-v)/(p.high-p.low) }

// drawCurves draws curves over time, with the marks of what happened and a legend.
func drawCurves(c *canvas, panel *board.Panel, at rectangle, r *recording, found []series) {
	d := panel.FieldConfig.Defaults
	tops, floors := found, []series(nil)
	if d.Custom.Stacking.Mode == "normal" {
		tops, floors = stack(found)
	}
	lines := legendOf(found, at.w)
	at.h -= float64(len(lines)) * legendHeight
	p := &plot{rectangle{at.x + axisWidth, at.y + marksHeight, at.w - axisWidth - 6, at.h - timesHeight - marksHeight - 2}, r.begin.UnixMilli(), r.end.UnixMilli(), 0, 0}
	low, high := bounds(tops, d)
	grid := ticks(low, high, base(tops, d.Unit))
	p.low, p.high = grid[0], grid[len(grid)-1]

	for _, v := range grid {
		c.line(p.at.x, p.y(v), p.at.x+p.at.w, p.y(v), "grid")
		c.text(p.at.x-5, p.y(v)+3.5, "tick", "end", format(v, d.Unit))
	}
	for t := time.Duration(0); t <= r.end.Sub(r.begin); t += between {
		c.text(p.x(r.begin.Add(t).UnixMilli()), p.at.y+p.at.h+13, "tick", "middle", clock(t))
	}
	for i, e := range r.events {
		x := p.x(e.at.UnixMilli())
		c.line(x, p.at.y, x, p.at.y+p.at.h, "mark")
		c.text(x, p.at.y-4, "number", "middle", fmt.Sprint(i+1))
	}
	if floors == nil {
		for i := range tops {
			p.curve(c, tops[i].points, nil, i%len(colors))
		}
	}
	// From above, so that one that is nothing does not hide the edge of what it stands on.
	for i := len(floors) - 1; i >= 0; i-- {
		p.curve(c, tops[i].points, floors[i].points, i%len(colors))
	}
	for i, one := range lines {
		for _, entry := range one {
			y := at.y + at.h + float64(i)*legendHeight + 10
			c.add(`<rect x="%s" y="%s" width="10" height="3" class="d%d"/>`, coordinate(at.x+entry.x), coordinate(y-5), entry.color)
			c.text(at.x+entry.x+14, y, "legend", "", entry.name)
		}
	}
}

// curve draws a curve, in pieces where it is interrupted; with a floor, also the area between the two.
func (p *plot) curve(c *canvas, points, floor []promql.FPoint, color int) {
	for _, piece := range pieces(points) {
		var line []point
		for _, q := range piece {
			line = append(line, point{p.x(q.T), p.y(q.F)})
		}
		if len(line) == 1 { // a line to itself is nothing to see
			c.add(`<circle cx="%s" cy="%s" r="2" class="d%d"/>`, coordinate(line[0].x), coordinate(line[0].y), color)
			continue
		}
		c.curve(line, fmt.Sprintf("l%d", color))
		if floor == nil {
			continue
		}
		for k := len(piece) - 1; k >= 0; k-- {
			line = append(line, point{p.x(piece[k].T), p.y(valueAt(floor, piece[k].T))})
		}
		c.curve(line, fmt.Sprintf("a%d", color))
	}
}

// pieces cuts a curve where points are missing.
func pieces(points []promql.FPoint) [][]promql.FPoint {
	var all [][]promql.FPoint
	start := 0
	for i := range points {
		if i+1 == len(points) || points[i+1].T-points[i].T > step.Milliseconds() {
			all = append(all, points[start:i+1])
			start = i + 1
		}
	}
	return all
}

// stack puts each series on top of those before it: the heights of each, and what each stands on.
func stack(all []series) (tops, floors []series) {
	height := map[int64]float64{}
	for _, s := range all {
		top, floor := series{name: s.name}, series{name: s.name}
		for _, q := range s.points {
			floor.points = append(floor.points, promql.FPoint{T: q.T, F: height[q.T]})
			height[q.T] += q.F
			top.points = append(top.points, promql.FPoint{T: q.T, F: height[q.T]})
		}
		tops, floors = append(tops, top), append(floors, floor)
	}
	return tops, floors
}

// valueAt is the height of a curve at a time, 0 where it has none.
func valueAt(points []promql.FPoint, t int64) float64 {
	for _, q := range points {
		if q.T == t {
			return q.F
		}
	}
	return 0
}

// bounds are the least and the largest value that is shown. Zero is, but where all values are far from it.
func bounds(all []series, d board.Defaults) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, s := range all {
		for _, q := range s.points {
			low, high = math.Min(low, q.F), math.Max(high, q.F)
		}
	}
	if d.Min != nil {
		low = *d.Min
	}
	if math.IsInf(low, 0) || low > 0 {
		low = 0
	}
	return low, high
}

// base is that of the powers in which round numbers of the unit are.
func base(all []series, unit string) float64 {
	_, high := bounds(all, board.Defaults{})
	switch {
	case unit == "bytes":
		return 1024
	case unit == "s" && high > 120:
		return 60
	}
	return 10
}

// entry is a name in a legend, at its place in a line.
type entry struct {
	name  string
	x     float64
	color int
}

// legendOf puts the names of curves into lines; when they are too many, the last says how many are left out.
func legendOf(all []series, w float64) [][]entry {
	lines := [][]entry{nil}
	x := 0.0
	for i, s := range all {
		name := cut(s.name, w-20)
		needs := 14 + width(name) + 16
		if x > 0 && x+needs > w {
			if len(lines) == legendLines {
				last := &lines[legendLines-1][len(lines[legendLines-1])-1]
				last.name = fmt.Sprintf("and %d more", len(all)-i+1)
				return lines
			}
			lines, x = append(lines, nil), 0
		}
		lines[len(lines)-1] = append(lines[len(lines)-1], entry{name, x, i % len(colors)})
		x += needs
	}
	return lines
}
