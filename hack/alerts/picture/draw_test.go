package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

const small = `{
  "templating": {"list": [{"name": "namespace", "allValue": ".*"}]},
  "panels": [
    {"id": 1, "type": "row", "title": "Row & more", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
    {"id": 2, "type": "stat", "title": "Up", "gridPos": {"x": 0, "y": 1, "w": 4, "h": 4},
     "targets": [{"refId": "A", "expr": "sum(up{job=\"a\"})", "instant": true}],
     "fieldConfig": {"defaults": {"thresholds": {"steps": [{"color": "red", "value": null}, {"color": "green", "value": 1}]}}}},
    {"id": 3, "type": "timeseries", "title": "Rate", "gridPos": {"x": 4, "y": 1, "w": 8, "h": 7},
     "targets": [{"refId": "A", "expr": "sum by (pod) (rate(x_total{namespace=~\"$namespace\"}[$__rate_interval]))", "legendFormat": "pod {{pod}} {{none}}"}],
     "fieldConfig": {"defaults": {"unit": "reqps", "custom": {"stacking": {"mode": "normal"}}}}},
    {"id": 4, "type": "timeseries", "title": "Nothing", "gridPos": {"x": 12, "y": 1, "w": 8, "h": 7}, "targets": [{"refId": "A", "expr": "absent_metric"}]},
    {"id": 5, "type": "table", "title": "Versions", "gridPos": {"x": 0, "y": 8, "w": 12, "h": 4},
     "targets": [{"refId": "A", "expr": "count by (pod) (x_total)", "instant": true}],
     "transformations": [{"id": "organize", "options": {"renameByName": {"Value": "pods"}}}]}
  ]}`

// recorded is a minute of two targets: b is gone for the second half, and a does not answer once.
func recorded() string {
	var b strings.Builder
	write := func(l line) {
		text, _ := json.Marshal(l)
		b.Write(append(text, '\n'))
	}
	begin := int64(1_800_000_000_000)
	write(line{Time: begin})
	for i := range int64(13) {
		at := begin + i*5000
		if i == 6 {
			write(line{Time: at, Event: "b <goes> away"})
		}
		one := line{Time: at, Labels: map[string]string{"job": "a", "namespace": "n", "pod": "a"}, Text: fmt.Sprintf("x_total %d\n", i*10)}
		if i == 3 {
			one.Text = ""
		}
		write(one)
		if i < 6 {
			write(line{Time: at, Labels: map[string]string{"job": "b", "namespace": "n", "pod": "b"}, Text: fmt.Sprintf("x_total %d\n", i*5)})
		}
	}
	return b.String()
}

func results(t *testing.T) (board.Board, *recording, map[int][]series) {
	t.Helper()
	b, err := board.Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	r, err := load(t.Context(), strings.NewReader(recorded()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	found, err := evaluate(t.Context(), r, b)
	if err != nil {
		t.Fatal(err)
	}
	return b, r, found
}

func TestEvaluate(t *testing.T) {
	b, r, found := results(t)
	if r.interval != 5*time.Second || r.end.Sub(r.begin) != time.Minute {
		t.Errorf("scraped every %s for %s", r.interval, r.end.Sub(r.begin))
	}
	if up := found[2]; len(up) != 1 || up[0].points[0].F != 1 {
		t.Errorf("up: %v", up)
	}
	rates := found[3]
	if len(rates) != 2 || rates[0].name != "pod a " || rates[1].name != "pod b " {
		t.Fatalf("rates: %v", rates)
	}
	if last := rates[0].points[len(rates[0].points)-1]; math.Abs(last.F-2) > 1e-9 || last.T != r.end.UnixMilli() {
		t.Errorf("ten in five seconds are %v", last)
	}
	// Its window still has two points of it 10 s later: after that there is nothing.
	if last := rates[1].points[len(rates[1].points)-1]; last.T > r.begin.Add(40*time.Second).UnixMilli() {
		t.Errorf("a target that is gone goes on until %v", last)
	}
	if versions := found[5]; len(versions) != 1 || versions[0].labels.Get("pod") != "a" {
		t.Errorf("a target that is gone is counted: %v", versions)
	}
	if got := emptyPanels(b, found); len(got) != 1 || got[0] != `"Nothing"` {
		t.Errorf("empty are %v", got)
	}
}

func TestDraw(t *testing.T) {
	b, r, found := results(t)
	picture, err := draw(b, r, found)
	if err != nil {
		t.Fatal(err)
	}
	a, texts := contents(t, []byte(picture))
	if a.Queries != hash(b) || len(a.Panels) != 4 || a.Panels[1] != (aboutPanel{3, "Rate", 2}) {
		t.Errorf("it says of itself %+v", a)
	}
	for _, want := range []string{"Row & more", "Up", "0:30  b <goes> away", "1", "pod a ", "0:00", "2/s", "pods"} {
		if !strings.Contains("\n"+strings.Join(texts, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("%q is not in %q", want, texts)
		}
	}
	for _, want := range []string{`class="value green"`, `class="l0"`, `class="a1"`, `class="mark"`} {
		if !strings.Contains(picture, want) {
			t.Errorf("%s is not in it", want)
		}
	}
	b.Panels[1].Type = "gauge"
	if _, err := draw(b, r, found); err == nil || !strings.Contains(err.Error(), `"gauge"`) {
		t.Errorf("a panel of an unknown type: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:           "it has no beginning",
		`{"time":1}`: "it has no beginning, or no scrapes",
		`{"time":`:   "unexpected EOF",
		`{"time":1,"labels":{"a":"b"},"text":"}{"}`: `what {a="b"} said`,
	} {
		if _, err := load(t.Context(), strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestStack(t *testing.T) {
	at := func(values ...float64) (points []promql.FPoint) {
		for i, v := range values {
			if v >= 0 {
				points = append(points, promql.FPoint{T: int64(i) * step.Milliseconds(), F: v})
			}
		}
		return points
	}
	tops, floors := stack([]series{{points: at(1, 2, 3)}, {points: at(1, -1, 1)}, {points: at(1, 1, 1)}})
	for i, want := range [][2]string{{"1 2 3", "0 0 0"}, {"2 4", "1 3"}, {"3 3 5", "2 2 4"}} {
		if got := [2]string{values(tops[i].points), values(floors[i].points)}; got != want {
			t.Errorf("curve %d: %v, want %v", i, got, want)
		}
	}
	if got := len(pieces(tops[1].points)); got != 2 {
		t.Errorf("an interrupted curve has %d pieces", got)
	}
}

func values(points []promql.FPoint) string {
	var all []string
	for _, p := range points {
		all = append(all, number(p.F))
	}
	return strings.Join(all, " ")
}

func TestFormat(t *testing.T) {
	for _, row := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "s", "0 s"}, {0.00021, "s", "210 µs"}, {0.0123, "s", "12.3 ms"}, {90, "s", "1.5 min"}, {7776000, "s", "90 days"}, {-90, "s", "-1.5 min"},
		{14 << 20, "bytes", "14 MiB"}, {512, "bytes", "512 B"}, {0.125, "percentunit", "12.5 %"}, {1.98, "reqps", "1.98/s"},
		{1234, "short", "1234"}, {0.1, "", "0.1"}, {100, "", "100"}, {0.00004, "", "4e-05"},
	} {
		if got := format(row.v, row.unit); got != row.want {
			t.Errorf("%v %s: %q, want %q", row.v, row.unit, got, row.want)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, row := range []struct {
		low, high, base float64
		want            string
	}{
		{0, 1, 10, "0 0.25 0.5 0.75 1"},
		{0, 3.2, 10, "0 1 2 3 4"},
		{0, 0, 10, "0 0.25 0.5 0.75 1"},
		{-1, 3, 10, "-1 0 1 2 3"},
		{0, 700, 60, "0 300 600 900"},
		{0, 30 << 20, 1024, "0 10485760 20971520 31457280"},
	} {
		var got []string
		for _, v := range ticks(row.low, row.high, row.base) {
			got = append(got, number(v))
		}
		if strings.Join(got, " ") != row.want {
			t.Errorf("%v to %v in powers of %v: %v, want %s", row.low, row.high, row.base, got, row.want)
		}
	}
}

func TestLegendOf(t *testing.T) {
	var many []series
	for i := range 30 {
		many = append(many, series{name: fmt.Sprintf("series number %d", i)})
	}
	lines := legendOf(many, 300)
	if len(lines) != legendLines {
		t.Fatalf("%d lines", len(lines))
	}
	last := lines[legendLines-1]
	shown := -1 // the last is no series
	for _, one := range lines {
		shown += len(one)
	}
	if want := fmt.Sprintf("and %d more", len(many)-shown); last[len(last)-1].name != want {
		t.Errorf("the last is %q, want %q", last[len(last)-1].name, want)
	}
	if got := legendOf([]series{{name: strings.Repeat("x", 200)}}, 100); width(got[0][0].name) > 100 {
		t.Errorf("a long name is not cut: %q", got[0][0].name)
	}
}

// A series that is nothing lies below the edge of the one that it stands on, which would else look like it.
func TestNothingHidesNoEdge(t *testing.T) {
	b, r, _ := results(t)
	at := func(v float64) []promql.FPoint {
		return []promql.FPoint{{T: r.begin.UnixMilli(), F: v}, {T: r.begin.UnixMilli() + 1, F: v}}
	}
	c := &canvas{}
	drawCurves(c, &b.Panels[2], rectangle{0, 0, 400, 200}, r, []series{{name: "all", points: at(1)}, {name: "none", points: at(0)}})
	upper, edge := strings.Index(c.String(), `class="l1"`), strings.Index(c.String(), `class="l0"`)
	if upper < 0 || edge < upper {
		t.Errorf("the edge is drawn at %d, what is nothing at %d", edge, upper)
	}
}
