package main

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// canvas is an SVG that is being written.
type canvas struct{ strings.Builder }

func (c *canvas) add(format string, args ...any) { _, _ = fmt.Fprintf(c, format+"\n", args...) }

// text writes a text; class says its size and color.
func (c *canvas) text(x, y float64, class, anchor, text string) {
	c.add(`<text x="%s" y="%s" class="%s"%s>%s</text>`, coordinate(x), coordinate(y), class, anchored(anchor), escape(text))
}

func anchored(anchor string) string {
	if anchor == "" {
		return ""
	}
	return ` text-anchor="` + anchor + `"`
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	c.add(`<path d="M%s %sL%s %s" class="%s"/>`, coordinate(x1), coordinate(y1), coordinate(x2), coordinate(y2), class)
}

func (c *canvas) rect(x, y, w, h float64, class string) {
	c.add(`<rect x="%s" y="%s" width="%s" height="%s" rx="3" class="%s"/>`, coordinate(x), coordinate(y), coordinate(w), coordinate(h), class)
}

// point is a place on the canvas.
type point struct{ x, y float64 }

// curve draws a line through points.
func (c *canvas) curve(points []point, class string) {
	c.add(`<path d="%s" class="%s"/>`, path(points), class)
}

func path(points []point) string {
	var b strings.Builder
	for i, p := range points {
		b.WriteByte("ML"[min(i, 1)])
		b.WriteString(coordinate(p.x) + " " + coordinate(p.y))
	}
	return b.String()
}

// coordinate has a tenth of a pixel, which is what keeps the picture small.
func coordinate(v float64) string { return trim(fmt.Sprintf("%.1f", v)) }

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder never fails
	return b.String()
}

// width is about how wide a text of 11 pixels is; the fonts of readers differ.
func width(text string) float64 { return 6.1 * float64(len([]rune(text))) }

// cut shortens a text to a width.
func cut(text string, w float64) string {
	letters := []rune(text)
	if n := int(w / width("x")); len(letters) > n {
		return string(letters[:max(n-1, 0)]) + "…"
	}
	return text
}

// style is for light and dark pages: images follow what their readers prefer. Programs that do not know the preference, or
// variables, show it light.
const style = `<style>
text { font: 11px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #5f6670 }
.head { font-size: 20px; font-weight: 600 }
.row { font-size: 14px; font-weight: 600 }
.title { font-size: 12px; font-weight: 600 }
.said { font-size: 12px }
.value { font-size: 24px; font-weight: 600 }
.tick { font-size: 10px }
.number { font-size: 9px; font-weight: 600; fill: #8e8e99 }
.head, .row, .title, .said, .ink { fill: #24292e }
.page { fill: #f4f5f5 } .panel { fill: #fff; stroke: #d8d9dd } .grid { stroke: #e8e9ec; fill: none }
.mark { stroke: #a9a9b4; stroke-dasharray: 2 3; fill: none } .badge { fill: #74777f } .badged { font-weight: 600; fill: #fff }
.green { fill: #1a7f4b } .orange { fill: #c4620a } .red { fill: #c4162a }
@media (prefers-color-scheme: dark) {
  text { fill: #9da3ad } .head, .row, .title, .said, .ink { fill: #d8d9da }
  .page { fill: #111217 } .panel { fill: #181b1f; stroke: #2c2f36 } .grid { stroke: #25282e }
  .mark { stroke: #5c5f67 } .green { fill: #5dc07a } .orange { fill: #ff9830 } .red { fill: #f2495c }
}
%s</style>
`

// colors are told apart on white and on nearly black.
var colors = []string{"#3274d9", "#e0752d", "#3f9a4f", "#b0479d", "#c9a20c", "#d64242", "#2aa6b8", "#8a63d2", "#7a8691", "#a5672f"}

// curveStyles has two classes for each color: l0 for the line, a0 for the area below it.
func curveStyles() string {
	var b strings.Builder
	for i, color := range colors {
		fmt.Fprintf(&b, ".l%d { stroke: %s; stroke-width: 1.5; fill: none; stroke-linejoin: round } .a%d { fill: %s; fill-opacity: .22 } .d%d { fill: %s }\n", i, color, i, color, i, color)
	}
	return b.String()
}
