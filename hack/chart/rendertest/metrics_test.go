//go:build helm

package rendertest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMonitorsOfAnotherRelease: names follow the release, the jobs that alerts look for do not. It also shows that the kinds of
// the operator need not be known to `helm template` (--api-versions): GitOps tools render without a cluster.
func TestMonitorsOfAnotherRelease(t *testing.T) {
	out, err := helm(t, "template", "tokens", chart, "--namespace=elsewhere", "--kube-version=1.33.0",
		"--set", "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true")
	if err != nil {
		t.Fatal(out)
	}
	for _, want := range []string{
		"kind: ServiceMonitor\nmetadata:\n  name: tokens-podtoken-webhook\n  namespace: elsewhere\n",
		"kind: ServiceMonitor\nmetadata:\n  name: tokens-podtoken-controller\n  namespace: elsewhere\n",
		"kind: PodMonitor\nmetadata:\n  name: tokens-podtoken-sidecar\n  namespace: elsewhere\n",
		"kind: PrometheusRule\nmetadata:\n  name: tokens-podtoken\n  namespace: elsewhere\n",
		"kind: ConfigMap\nmetadata:\n  name: tokens-podtoken-dashboard\n  namespace: elsewhere\n",
		"    grafana_dashboard: \"1\"\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q", want)
		}
	}
	jobs := values(out, "replacement")
	slices.Sort(jobs)
	if diff := cmp.Diff([]string{"podtoken-controller", "podtoken-sidecar", "podtoken-webhook"}, jobs); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	// As Prometheus does, and not an empty interval, which the operator's kinds do not take.
	if strings.Contains(out, "interval:") || strings.Contains(out, "scrapeTimeout:") {
		t.Error("an interval is set that nobody gave")
	}
	for _, url := range values(out, "runbook_url") {
		if !strings.HasPrefix(url, "docs/runbook.md#podtoken") {
			t.Errorf("runbook_url is %q", url)
		}
	}
}

// TestEachOnItsOwn: whoever wants one of them need not take the others.
func TestEachOnItsOwn(t *testing.T) {
	for value, want := range map[string][]string{
		"serviceMonitor": {"ServiceMonitor", "ServiceMonitor"},
		"podMonitor":     {"PodMonitor"},
		"prometheusRule": {"PrometheusRule"},
		"dashboard":      nil,
	} {
		out := render(t, "--set", "metrics."+value+".enabled=true")
		var got []string
		for _, kind := range values(out, "kind") {
			if slices.Contains([]string{"ServiceMonitor", "PodMonitor", "PrometheusRule"}, kind) {
				got = append(got, kind)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", value, got, want)
		}
		if strings.Contains(out, "podtoken-dashboard") != (value == "dashboard") {
			t.Errorf("%s: the dashboard is there, or missing", value)
		}
	}
}

// TestLabelsCanBeRemoved: the maps of values merge, so that null is the way to lose a label.
func TestLabelsCanBeRemoved(t *testing.T) {
	out := render(t, "--set", "metrics.dashboard.enabled=true,metrics.dashboard.labels=null,metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.labels=null")
	if strings.Contains(out, "grafana_dashboard") || strings.Contains(out, "null") && strings.Contains(out, "labels: null") {
		t.Errorf("the label is still there:\n%s", out)
	}
}

// TestOwnLabelsWinOverCommonOnes: the same key twice would be no YAML that an API server takes.
func TestOwnLabelsWinOverCommonOnes(t *testing.T) {
	out := render(t, "--set", "commonLabels.release=common,metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prometheus",
		"--show-only=templates/podmonitor.yaml")
	if got := values(out, "release"); !slices.Equal(got, []string{"prometheus"}) {
		t.Errorf("label release is %q:\n%s", got, out)
	}
}
