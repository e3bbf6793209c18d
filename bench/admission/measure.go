package main

import (
	"context"
	"fmt"
	"time"

	"github.com/podtoken/podtoken/bench/proc"
	"github.com/podtoken/podtoken/bench/report"
	"github.com/podtoken/podtoken/internal/admission/reviews"
)

// cell is one way of calling, measured for every server.
type cell struct {
	title   string
	body    []byte
	callers int
	// patched: the pod asks. Else only we and the null server are called.
	patched bool
}

func cells() ([]cell, error) {
	body := func(shape string, asks bool) ([]byte, error) {
		annotations := map[string]string{}
		if asks {
			annotations = reviews.Annotations()
			// What vault-k8s injects for.
			annotations["vault.hashicorp.com/agent-inject"] = "true"
			annotations["vault.hashicorp.com/role"] = "shop"
			annotations["vault.hashicorp.com/agent-inject-secret-shop"] = "secret/shop"
		}
		return reviews.Review("0b5a1c1e-95ad-4d3c-a5f8-6ee5cf9d3a3c", withToken(reviews.Shapes()[shape], annotations))
	}
	minimal, err := body(reviews.Minimal, true)
	if err != nil {
		return nil, err
	}
	typical, err := body(reviews.Typical, true)
	if err != nil {
		return nil, err
	}
	large, err := body(reviews.Large, true)
	if err != nil {
		return nil, err
	}
	foreign, err := body(reviews.Typical, false)
	if err != nil {
		return nil, err
	}
	return []cell{
		{title: "minimal pod, one connection", body: minimal, callers: 1, patched: true},
		{title: "typical pod, one connection", body: typical, callers: 1, patched: true},
		{title: "typical pod, 64 callers", body: typical, callers: 64, patched: true},
		{title: "large pod, one connection", body: large, callers: 1, patched: true},
		{title: "large pod, 64 callers", body: large, callers: 64, patched: true},
		{title: "a typical pod that asks for nothing, one connection", body: foreign, callers: 1},
	}, nil
}

// measurement of a contestant in a cell.
type measurement struct {
	cpu         report.Sample // microseconds for a request
	answerTimes report.Sample
}

// measureCosts gives each server its turns in each cell, and writes a table for each.
func measureCosts(ctx context.Context, all []*contestant, runs int, turn time.Duration) (string, error) {
	list, err := cells()
	if err != nil {
		return "", err
	}
	text := ""
	for _, cell := range list {
		measured := map[string]*measurement{}
		for run := range runs + 1 {
			for _, c := range all {
				if !cell.patched && c.name != oursName && c.name != nullName {
					continue
				}
				m := measured[c.name]
				if m == nil {
					m = &measurement{}
					measured[c.name] = m
				}
				if err := measureTurn(ctx, c, cell, turn, run > 0, m); err != nil {
					return "", fmt.Errorf("%s, %s: %w", c.name, cell.title, err)
				}
			}
		}
		text += tabulate(cell.title, all, measured)
		if cell.callers > 1 {
			for _, c := range all {
				peak, err := proc.PeakOf(c.process.Process.Pid)
				if err != nil {
					return "", err
				}
				c.peaks = append(c.peaks, megabytes(peak))
			}
		}
	}
	return text + memoryTable(all), nil
}

// measureTurn is one turn; the first of each warms up and does not count.
func measureTurn(ctx context.Context, c *contestant, cell cell, turn time.Duration, counts bool, m *measurement) error {
	pid := c.process.Process.Pid
	before, err := proc.WorkOf(pid)
	if err != nil {
		return err
	}
	got, err := call(ctx, c, cell.body, cell.patched || c.name == nullName, cell.callers, turn, false)
	if err != nil {
		return err
	}
	after, err := proc.WorkOf(pid)
	if err != nil {
		return err
	}
	if counts && got.answered > 0 {
		m.cpu = append(m.cpu, float64(after.Since(before).CPU.Nanoseconds())/1000/float64(got.answered+got.refused))
		m.answerTimes = append(m.answerTimes, got.answerTimes...)
	}
	return nil
}

func tabulate(title string, all []*contestant, measured map[string]*measurement) string {
	table := report.Table{Head: []string{title, "CPU µs a review, median [least–most]", "against null", "p50 ms", "p99 ms"}}
	null := measured[nullName].cpu.Median()
	for _, c := range all {
		if m := measured[c.name]; m != nil {
			table.Row(c.name, m.cpu.Spread(0), fmt.Sprintf("%.2f", m.cpu.Median()/null),
				fmt.Sprintf("%.2f", m.answerTimes.Percentile(50)), fmt.Sprintf("%.2f", m.answerTimes.Percentile(99)))
		}
	}
	return table.String() + "\n"
}

// memoryTable is after all cells: those of many callers come with rising size.
func memoryTable(all []*contestant) string {
	table := report.Table{Head: []string{
		"memory, MB", "resident before the first review", "of it anonymous", "resident at most, 64 callers, typical pods", "large pods",
	}}
	for _, c := range all {
		table.Row(append([]string{c.name, megabytes(c.idle.RSS), megabytes(c.idle.Anonymous)}, c.peaks...)...)
	}
	return table.String() + "\n"
}

func megabytes(bytes float64) string { return fmt.Sprintf("%.1f", bytes/1e6) }
