package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

// The types of panels, as Grafana calls them.
const (
	rowType        = "row"
	statType       = "stat"
	timeseriesType = "timeseries"
	tableType      = "table"
)

// step is the time between two points of a curve.
const step = 5 * time.Second

// series is a curve, or with one point a number.
type series struct {
	name   string
	labels labels.Labels
	points []promql.FPoint
}

// variables puts in what Grafana would for a recording that is shown from its beginning to its end: all namespaces, and
// for $__rate_interval four scrapes.
func variables(b board.Board, interval, length time.Duration) *strings.Replacer {
	pairs := []string{
		"$__rate_interval", duration(max(4*interval, interval+step)),
		"$__interval", duration(step),
		"$__range", duration(length),
	}
	for _, v := range b.Templating.List {
		pairs = append(pairs, "${"+v.Name+"}", v.AllValue, "$"+v.Name, v.AllValue)
	}
	return strings.NewReplacer(pairs...)
}

func duration(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }

// evaluate answers the queries of all panels, by their ids.
func evaluate(ctx context.Context, r *recording, b board.Board) (map[int][]series, error) {
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 5e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: parser.NewParser(parser.Options{}),
	})
	defer func() { _ = engine.Close() }()
	fill := variables(b, r.interval, r.end.Sub(r.begin))
	all := map[int][]series{}
	for i := range b.Panels {
		p := &b.Panels[i]
		for _, target := range p.Targets {
			found, err := answer(ctx, engine, r, target, fill)
			if err != nil {
				return nil, fmt.Errorf("panel %q, query %s: %w", p.Title, target.RefID, err)
			}
			all[p.ID] = append(all[p.ID], found...)
		}
	}
	return all, nil
}

func answer(ctx context.Context, engine *promql.Engine, r *recording, target board.Target, fill *strings.Replacer) ([]series, error) {
	query, err := newQuery(ctx, engine, r, target, fill.Replace(target.Expr))
	if err != nil {
		return nil, err
	}
	defer query.Close()
	result := query.Exec(ctx)
	if result.Err != nil {
		return nil, result.Err
	}
	var found []series
	switch values := result.Value.(type) {
	case promql.Matrix:
		for _, one := range values {
			found = append(found, series{legend(target.LegendFormat, one.Metric), one.Metric, slices.Clone(finite(one.Floats))})
		}
	case promql.Vector:
		for _, one := range values {
			found = append(found, series{legend(target.LegendFormat, one.Metric), one.Metric, []promql.FPoint{{T: one.T, F: one.F}}})
		}
	default:
		return nil, fmt.Errorf("it answers a %s", result.Value.Type())
	}
	found = slices.DeleteFunc(found, func(s series) bool { return len(s.points) == 0 })
	slices.SortFunc(found, func(a, b series) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

func newQuery(ctx context.Context, engine *promql.Engine, r *recording, target board.Target, expr string) (promql.Query, error) {
	if target.Instant {
		return engine.NewInstantQuery(ctx, r, nil, expr, r.end)
	}
	return engine.NewRangeQuery(ctx, r, nil, expr, r.begin, r.end, step)
}

// finite leaves out what nobody can draw: quantiles of no observations, and quotients by zero.
func finite(points []promql.FPoint) []promql.FPoint {
	return slices.DeleteFunc(slices.Clone(points), func(p promql.FPoint) bool { return math.IsNaN(p.F) || math.IsInf(p.F, 0) })
}

// legend fills in a legend such as "{{namespace}}/{{pod}}".
func legend(format string, metric labels.Labels) string {
	if format == "" {
		return metric.String()
	}
	metric.Range(func(l labels.Label) {
		format = strings.ReplaceAll(format, "{{"+l.Name+"}}", l.Value)
	})
	return emptyLabel.ReplaceAllString(format, "")
}
