package alerts

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// rendered returns the objects of a kind in the chart's golden file. The operator's own types decode them strictly: a field
// that is spelt wrong is an error here, and not one of an API server.
func rendered[T any](t *testing.T, kind string) []T {
	t.Helper()
	var found []T
	for document := range strings.SplitSeq(string(read(t, golden)), "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			t.Fatal(err)
		}
		if meta.Kind != kind {
			continue
		}
		var object T
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		found = append(found, object)
	}
	return found
}

// The jobs that the alerts look for are those that the monitors make.
func TestJobs(t *testing.T) {
	jobs := map[string]bool{}
	relabel := func(configs []monitoringv1.RelabelConfig) {
		for _, c := range configs {
			if c.TargetLabel == "job" && c.Replacement != nil {
				jobs[*c.Replacement] = true
			}
		}
	}
	for _, monitor := range rendered[monitoringv1.ServiceMonitor](t, "ServiceMonitor") {
		for _, endpoint := range monitor.Spec.Endpoints {
			relabel(endpoint.RelabelConfigs)
		}
	}
	for _, monitor := range rendered[monitoringv1.PodMonitor](t, "PodMonitor") {
		for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
			relabel(endpoint.RelabelConfigs)
		}
	}
	if len(jobs) != len(expositions) {
		t.Errorf("the monitors make the jobs %v", jobs)
	}
	for job := range expositions {
		if !jobs[job] {
			t.Errorf("no monitor makes the job %s", job)
		}
	}
}

// What a pod serves on its port can be anything. Its labels do not become the target's, of its metrics only those of a sidecar stay,
// and there are not more of them, nor longer ones, than the largest sidecar has.
func TestPodMonitorTakesTheSidecarsMetricsOnly(t *testing.T) {
	monitors := rendered[monitoringv1.PodMonitor](t, "PodMonitor")
	if len(monitors) != 1 || len(monitors[0].Spec.PodMetricsEndpoints) != 1 {
		t.Fatalf("%d PodMonitors", len(monitors))
	}
	spec := monitors[0].Spec
	endpoint := spec.PodMetricsEndpoints[0]
	if endpoint.HonorLabels || len(endpoint.MetricRelabelConfigs) != 1 {
		t.Fatalf("%+v", endpoint)
	}
	keep := endpoint.MetricRelabelConfigs[0]
	if keep.Action != "keep" || !slices.Equal(keep.SourceLabels, []monitoringv1.LabelName{"__name__"}) {
		t.Errorf("%+v", keep)
	}
	regex := regexp.MustCompile("^(?:" + keep.Regex + ")$") // as Prometheus does
	for name, metrics := range exported(t) {
		for _, m := range metrics {
			if sidecars := m.job == "podtoken-sidecar"; name != "up" && regex.MatchString(name) != sidecars {
				t.Errorf("%s of the job %s is kept: %v", name, m.job, !sidecars)
			}
		}
	}

	var own, ofTokens, labels int64
	tokens := map[string]bool{}
	for name, metrics := range exported(t) {
		for _, m := range metrics {
			if m.job != "podtoken-sidecar" || name == "up" {
				continue
			}
			for _, set := range m.series {
				labels = max(labels, int64(len(set)))
				if token, ok := set["token"]; ok {
					ofTokens++
					tokens[token] = true
				} else {
					own++
				}
			}
		}
	}
	const maxPerPod = 4 // tokens.maxPerPod of the golden file
	if need := own + maxPerPod*ofTokens/int64(len(tokens)); *spec.SampleLimit < need || *spec.SampleLimit > 3*need {
		t.Errorf("sampleLimit is %d, a sidecar with %d tokens has %d series", *spec.SampleLimit, maxPerPod, need)
	}
	// The name of the metric is a label, too. Some more are given by who runs Prometheus (podTargetLabels).
	if need := labels + int64(len(ofTarget)) + 1; *spec.LabelLimit < 2*need {
		t.Errorf("labelLimit is %d, a series has %d labels at least", *spec.LabelLimit, need)
	}
	if *spec.LabelNameLengthLimit < 64 || *spec.LabelValueLengthLimit < 253 { // a pod's name
		t.Errorf("labelNameLengthLimit is %d, labelValueLengthLimit %d", *spec.LabelNameLengthLimit, *spec.LabelValueLengthLimit)
	}
}

// The PrometheusRule has the alerts of the file, each with its runbook.
func TestPrometheusRule(t *testing.T) {
	objects := rendered[monitoringv1.PrometheusRule](t, "PrometheusRule")
	if len(objects) != 1 {
		t.Fatalf("%d PrometheusRules", len(objects))
	}
	want := readRules(t)
	for _, group := range objects[0].Spec.Groups {
		for _, got := range group.Rules {
			rule := want[got.Alert]
			delete(want, got.Alert)
			if got.Expr.String() != rule.Expr || got.For == nil || string(*got.For) != rule.For.String() || got.Labels["severity"] != rule.Labels["severity"] {
				t.Errorf("%s is %+v, want %+v", got.Alert, got, rule)
			}
			url := "https://runbooks.example.com/podtoken#" + strings.ToLower(got.Alert)
			for key, text := range map[string]string{
				"summary": rule.Annotations["summary"], "description": rule.Annotations["description"], "runbook_url": url,
			} {
				if got.Annotations[key] != text {
					t.Errorf("%s: %s is %q, want %q", got.Alert, key, got.Annotations[key], text)
				}
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("not in the PrometheusRule: %v", want)
	}
}

// Helm hands the dashboard on as it is, although it is full of what looks like templates.
func TestDashboardConfigMap(t *testing.T) {
	for _, object := range rendered[corev1.ConfigMap](t, "ConfigMap") {
		if text, ok := object.Data["podtoken.json"]; ok {
			if text != string(read(t, dashboard)) {
				t.Error("the dashboard in the ConfigMap is not the chart's file: run `make generate`")
			}
			return
		}
	}
	t.Error("there is no dashboard")
}
