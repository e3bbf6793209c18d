package alerts

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

// A pod may serve what it likes on the port that the PodMonitor scrapes, and a monitor of another team may scrape pods for a job of its
// own. Under no other job than its own do the series of a bad hour raise an alert, and under none do those of a good hour hide
// that nothing answers.
func TestAlertsOfOtherJobs(t *testing.T) {
	parsed := readRules(t)
	for name, hours := range scenarios() {
		selectors, err := selectorsOf(parsed[name].Expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range append(slices.Sorted(maps.Keys(expositions)), elsewhere) {
			if slices.ContainsFunc(selectors, func(n *parser.VectorSelector) bool { return matchesJob(n, job) }) {
				continue
			}
			for what, one := range hours {
				moved := scenario{series: ofJob(t, one.series, job)}
				fired, _ := moved.run(t, name)
				absent := strings.HasPrefix(parsed[name].Expr, "absent(")
				if absent != (len(fired) == 1) || len(fired) > 1 {
					t.Errorf("%s, %s, as job %s: fired %q", name, what, job, slices.Sorted(maps.Keys(fired)))
				}
			}
		}
	}
}

// The pod of the red team: it claims to lead, and to find no guard.
func TestAPodDoesNotRaiseTheGuardsAlert(t *testing.T) {
	const claims = `podtoken_guard_present{job="podtoken-sidecar",namespace="shop",pod="mallory",instance="p"} 0x60
		podtoken_controller_leading{job="podtoken-sidecar",namespace="shop",pod="mallory",instance="p"} 1x60`
	for name := range readRules(t) {
		fired, _ := scenario{series: claims}.run(t, name)
		if down := strings.HasSuffix(name, "Down"); down && name != "PodtokenWebhookReplicaDown" {
			continue // here is nothing but the pod
		}
		if len(fired) != 0 {
			t.Errorf("%s fired: %v", name, fired)
		}
	}
	fired, _ := scenario{series: strings.ReplaceAll(claims, "podtoken-sidecar", "podtoken-controller")}.run(t, "PodtokenGuardMissing")
	if len(fired) != 1 {
		t.Errorf("as the controller it fired %v: the test shows nothing", fired)
	}
}

// ofJob returns the series with another job.
func ofJob(t *testing.T, series, job string) string {
	t.Helper()
	var moved strings.Builder
	for line := range strings.Lines(indent(series)) {
		before, after, found := strings.Cut(line, `job="`)
		_, rest, ended := strings.Cut(after, `"`)
		if !found || !ended {
			t.Fatalf("%s has no job", line)
		}
		moved.WriteString(before + `job="` + job + `"` + rest)
	}
	return moved.String()
}
