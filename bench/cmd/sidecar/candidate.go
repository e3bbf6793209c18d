package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/podtoken/podtoken/bench/report"
)

// candidate is a binary that is measured, and what was seen of it.
type candidate struct {
	name, binary string
	env          []string // besides what every pod's sidecar has

	first, all        report.Sample // ms from its start to one token, and to three
	lateRSS, lateAnon report.Sample // the same after a month's refreshes
	rss, anon         report.Sample // MB
	cpu, switches     report.Sample // ms and switches a minute
	threads           report.Sample
	startCPU          report.Sample // ms until all tokens were there
	connections       report.Sample // for three tokens
	requests          report.Sample
}

// buildCandidates builds the sidecar as its image does, and the floor likewise.
func buildCandidates(ctx context.Context, dir string) ([]candidate, error) {
	candidates := []candidate{
		{name: "podtoken-sidecar", binary: filepath.Join(dir, "podtoken-sidecar")},
		{name: "floor: net/http in a loop", binary: filepath.Join(dir, "floor")},
	}
	for i, pkg := range []string{"github.com/podtoken/podtoken/cmd/sidecar", "github.com/podtoken/podtoken/bench/cmd/floor"} {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", candidates[i].binary, pkg) //nolint:gosec // constants
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", pkg, err, output)
		}
	}
	return candidates, nil
}

func tabulate(candidates []candidate) (string, error) {
	t := report.Table{Head: []string{"", "start to first token, ms", "to three tokens, ms", "CPU of that, ms", "RSS, MB", "anonymous, MB", "RSS after a month, MB", "anonymous after a month, MB", "threads",
		"CPU at rest, ms/min", "context switches/min", "connections", "requests", "binary, MB", "gzip, MB"}}
	for i := range candidates {
		c := &candidates[i]
		plain, compressed, err := report.Sizes(c.binary)
		if err != nil {
			return "", err
		}
		t.Row(c.name, c.first.Spread(1), c.all.Spread(1), c.startCPU.Spread(1), c.rss.Spread(2), c.anon.Spread(2), c.lateRSS.Spread(2), c.lateAnon.Spread(2), fmt.Sprintf("%.0f", c.threads.Median()),
			c.cpu.Spread(2), c.switches.Spread(0), fmt.Sprintf("%.0f", c.connections.Median()), fmt.Sprintf("%.0f", c.requests.Median()), fmt.Sprintf("%.2f", plain), fmt.Sprintf("%.2f", compressed))
	}
	return t.String(), nil
}
