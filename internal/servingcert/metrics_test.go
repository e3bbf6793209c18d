package servingcert

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The metrics are the controller's only with --serving-certificate-secret, so that its own golden file does not have them. hack/alerts reads
// this one, too.
func TestMetricsText(t *testing.T) {
	const path = "testdata/metrics.txt"
	registry := prometheus.NewRegistry()
	newMetrics(registry)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if *update {
		if err := os.WriteFile(path, w.Body.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), w.Body.String()); diff != "" {
		t.Errorf("go test -update and review (-want +got):\n%s", diff)
	}
}
