package alerts

import (
	"maps"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// Names, units, types and help texts are as everybody who knows Prometheus expects them.
func TestMetricsLint(t *testing.T) {
	for job := range expositions {
		parsed := families(t, job)
		problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(parsed))).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range problems {
			t.Errorf("%s: %s: %s", job, problem.Metric, problem.Text)
		}
		for name, family := range parsed {
			if family.GetType() == dto.MetricType_UNTYPED {
				t.Errorf("%s: %s has no type", job, name)
			}
		}
	}
}
