package main

import (
	"fmt"
	"slices"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

// Sizes in pixels. A board is 24 cells wide.
const (
	cellWidth  = 60
	cellHeight = 32
	boardWidth = 24 * cellWidth
	margin     = 12
	gap        = 4
	headHeight = 40
	eventLine  = 20
)

// rectangle is where a panel is.
type rectangle struct{ x, y, w, h float64 }

// draw draws a board.
func draw(b board.Board, r *recording, results map[int][]series) (string, error) {
	about, err := describe(b, results, r.begin)
	if err != nil {
		return "", err
	}
	head := headHeight + float64((len(r.events)+1)/2)*eventLine + margin
	rows := 0
	for i := range b.Panels {
		rows = max(rows, b.Panels[i].GridPos.Y+b.Panels[i].GridPos.H)
	}
	w, h := float64(boardWidth+2*margin), head+float64(rows)*cellHeight+margin

	c := &canvas{}
	c.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]s %[2]s" width="%[1]s" height="%[2]s" role="img">`, coordinate(w), coordinate(h))
	c.add(`<title>The dashboard of podtoken, drawn from %.0f minutes of a real cluster</title>`, r.end.Sub(r.begin).Minutes())
	c.add(`<metadata>%s</metadata>`, escape(about))
	c.add(style, curveStyles())
	c.rect(0, 0, w, h, "page")
	drawHead(c, r)
	for i := range b.Panels {
		p := &b.Panels[i]
		g := p.GridPos
		at := rectangle{margin + float64(g.X)*cellWidth, head + float64(g.Y)*cellHeight, float64(g.W)*cellWidth - gap, float64(g.H)*cellHeight - gap}
		if err := drawPanel(c, p, at, r, results[p.ID]); err != nil {
			return "", err
		}
	}
	c.add(`</svg>`)
	return c.String(), nil
}

// drawHead writes what happened, with the numbers that the panels have at their marks.
func drawHead(c *canvas, r *recording) {
	c.text(margin, 28, "head", "", fmt.Sprintf("podtoken: %.0f minutes of a real installation, scraped every %d s", r.end.Sub(r.begin).Minutes(), int(r.interval.Seconds())))
	half := (len(r.events) + 1) / 2
	for i, e := range r.events {
		x, y := float64(margin), headHeight+float64(i%max(half, 1)+1)*eventLine-4
		if i >= half {
			x += boardWidth / 2
		}
		c.add(`<circle cx="%s" cy="%s" r="8" class="badge"/>`, coordinate(x+8), coordinate(y-4))
		c.text(x+8, y, "badged", "middle", fmt.Sprint(i+1))
		c.text(x+24, y, "said", "", clock(e.at.Sub(r.begin))+"  "+e.text)
	}
}

func drawPanel(c *canvas, p *board.Panel, at rectangle, r *recording, found []series) error {
	if p.Type == rowType {
		c.text(at.x+2, at.y+at.h-6, "row", "", p.Title)
		return nil
	}
	c.rect(at.x, at.y, at.w, at.h, "panel")
	c.text(at.x+8, at.y+17, "title", "", p.Title)
	inner := rectangle{at.x + 8, at.y + 24, at.w - 16, at.h - 30}
	switch p.Type {
	case statType:
		drawStat(c, p, inner, found)
	case timeseriesType:
		drawCurves(c, p, inner, r, found)
	case tableType:
		drawTable(c, p, inner, found)
	default:
		return fmt.Errorf("panel %q has the type %q, which nobody can draw: it is one of row, stat, timeseries, table", p.Title, p.Type)
	}
	return nil
}

func drawStat(c *canvas, p *board.Panel, at rectangle, found []series) {
	for i, s := range found {
		text, color := shown(s.points[len(s.points)-1].F, p.FieldConfig.Defaults)
		x := at.x + at.w*(float64(i)+.5)/float64(len(found))
		c.text(x, at.y+at.h/2+10, "value "+known(color), "middle", text)
		if len(found) > 1 {
			c.text(x, at.y+at.h-2, "legend", "middle", s.name)
		}
	}
}

// known is a class for a color of Grafana's.
func known(color string) string {
	if slices.Contains([]string{"green", "orange", "red"}, color) {
		return color
	}
	return "ink"
}

// drawTable writes a line for each series, with its labels and its value.
func drawTable(c *canvas, p *board.Panel, at rectangle, found []series) {
	names := labelNames(found)
	column := at.w / float64(len(names)+1)
	valueName := "Value"
	for _, t := range p.Transformations {
		if name, ok := t.Options.RenameByName["Value"]; ok {
			valueName = name
		}
	}
	for i, name := range append(slices.Clone(names), valueName) {
		c.text(at.x+float64(i)*column, at.y+12, "title", "", name)
	}
	c.line(at.x, at.y+18, at.x+at.w, at.y+18, "grid")
	for i, s := range found {
		y := at.y + 34 + float64(i)*18
		for j, name := range names {
			c.text(at.x+float64(j)*column, y, "said", "", cut(s.labels.Get(name), column-6))
		}
		c.text(at.x+float64(len(names))*column, y, "said", "", number(s.points[0].F))
	}
}
