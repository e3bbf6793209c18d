package alerts

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// What the binaries export: tests of theirs hold these files against their /metrics. Those of the Go runtime and of the process
// are left out there, and come from the collectors that both register.
var expositions = map[string][]string{
	"podtoken-webhook": {"cmd/webhook/testdata/metrics.txt"},
	// The second with tls.mode=selfManaged.
	"podtoken-controller": {"cmd/controller/testdata/metrics.txt", "internal/servingcert/testdata/metrics.txt"},
	"podtoken-sidecar":    {"pkg/sidecar/serve/testdata/metrics.txt"},
}

// families returns what a job exports. In the files that have no values each gets the value 1.
func families(t *testing.T, job string) map[string]*dto.MetricFamily {
	t.Helper()
	var text bytes.Buffer
	for _, path := range expositions[job] {
		for line := range strings.Lines(string(read(t, path))) {
			line = strings.TrimSpace(line)
			if !strings.Contains(line, " ") {
				line += " 1"
			}
			text.WriteString(line + "\n")
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(&text)
	if err != nil || len(parsed) == 0 {
		t.Fatalf("%s: %d families, %v", expositions[job], len(parsed), err)
	}
	return parsed
}

// metric is a name that can be queried, of one job.
type metric struct {
	job     string
	counter bool
	// series are its label sets, without those that Prometheus adds.
	series []map[string]string
}

// exported returns the metrics of all jobs by name: podtoken_build_info is one of two.
func exported(t *testing.T) map[string][]metric {
	t.Helper()
	all := map[string][]metric{}
	for job := range expositions {
		for name, family := range families(t, job) {
			add(all, job, name, family)
		}
		all["up"] = append(all["up"], metric{job: job, series: []map[string]string{{}}})
	}
	// What API servers say of our webhook (k8s.io/apiserver@v0.37.2/pkg/admission/metrics/metrics.go).
	rejections := metric{job: "apiserver", counter: true}
	for _, kind := range []string{"calling_webhook_error", "apiserver_internal_error", "no_error"} {
		for _, name := range []string{"pods.podtoken.dev", "other.example.com"} {
			rejections.series = append(rejections.series, map[string]string{
				"name": name, "type": "admit", "operation": "CREATE", "error_type": kind, "rejection_code": "500",
			})
		}
	}
	all["apiserver_admission_webhook_rejection_count"] = []metric{rejections}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"podtoken-webhook", "podtoken-controller"} {
		for _, family := range gathered {
			add(all, job, family.GetName(), family)
		}
	}
	return all
}

// add turns a family into the metrics that a query finds.
func add(all map[string][]metric, job, name string, family *dto.MetricFamily) {
	sets := func(more ...string) []map[string]string {
		var series []map[string]string
		for _, m := range family.GetMetric() {
			set := map[string]string{}
			for _, pair := range m.GetLabel() {
				set[pair.GetName()] = pair.GetValue()
			}
			for _, label := range more {
				set[label] = "+Inf"
			}
			series = append(series, set)
		}
		return series
	}
	if family.GetType() == dto.MetricType_HISTOGRAM {
		for _, suffix := range []string{"_sum", "_count"} {
			all[name+suffix] = append(all[name+suffix], metric{job, true, sets()})
		}
		all[name+"_bucket"] = append(all[name+"_bucket"], metric{job, true, sets("le")})
		return
	}
	all[name] = append(all[name], metric{job, family.GetType() == dto.MetricType_COUNTER, sets()})
}

// ofTarget are the labels that the operator's monitors give to everything that is scraped.
var ofTarget = []string{"namespace", "pod", "instance", "container", "endpoint", "job"}

// free are labels whose values are not podtoken's to choose, or differ from build to build.
var free = append([]string{"token", "version", "goversion", "le", "rejection_code"}, ofTarget...)

// labelsOf returns the labels of a metric and those of its target, and the values that each can have.
func labelsOf(metrics []metric) map[string][]string {
	values := map[string][]string{}
	for _, label := range ofTarget {
		values[label] = nil
	}
	for _, m := range metrics {
		values["job"] = append(values["job"], m.job)
		for _, series := range m.series {
			for label, value := range series {
				values[label] = append(values[label], value)
			}
		}
	}
	return values
}

func TestExported(t *testing.T) {
	all := exported(t)
	for name, jobs := range map[string][]string{
		"podtoken_build_info":                               {"podtoken-controller", "podtoken-webhook"},
		"podtoken_admission_review_duration_seconds_bucket": {"podtoken-webhook"},
		"podtoken_sidecar_build_info":                       {"podtoken-sidecar"},
		"process_resident_memory_bytes":                     {"podtoken-controller", "podtoken-webhook"},
	} {
		var got []string
		for _, m := range all[name] {
			got = append(got, m.job)
		}
		if !slices.Equal(slices.Sorted(slices.Values(got)), jobs) {
			t.Errorf("%s is exported by %q, want %q", name, got, jobs)
		}
	}
	if got, want := slices.Sorted(maps.Keys(labelsOf(all["podtoken_grant_reconciles_total"]))),
		slices.Sorted(slices.Values(append([]string{"outcome", "reason"}, ofTarget...))); !slices.Equal(got, want) {
		t.Errorf("labels %q, want %q", got, want)
	}
}
