package admission

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/internal/servertest"
	"github.com/podtoken/podtoken/pkg/mutate"
)

const configuration = `
apiVersion: podtoken.dev/v1alpha1
kind: WebhookConfiguration
sidecar: {image: podtoken/sidecar:v1.2.3}
`

const policyText = `
apiVersion: podtoken.dev/v1alpha1
kind: PolicyConfiguration
allow:
- {name: shops, namespaces: ["shop*"], serviceAccounts: [web, shop], audiences: [vault, billing, "https://*.example.com"]}
rbacNamespaces: [roles]
excludeNamespaces: [closed]
`

// apiServerAudience is that of the API server that calls.
const apiServerAudience = "https://kubernetes.default.svc"

// harness is a Handler and what it writes.
type harness struct {
	*Handler
	registry *prometheus.Registry
	log      *servertest.Buffer
}

func newHarness(tb testing.TB) *harness {
	tb.Helper()
	rules, err := mutate.ParseConfig([]byte(configuration))
	if err != nil {
		tb.Fatal(err)
	}
	allowed, err := policy.Parse([]byte(policyText))
	if err != nil {
		tb.Fatal(err)
	}
	h := &harness{registry: prometheus.NewRegistry(), log: &servertest.Buffer{}}
	h.Handler = NewHandler(Config{
		Rules:              func() *mutate.Config { return rules },
		Policy:             func() *policy.Policy { return allowed },
		APIServerAudiences: func() []string { return []string{apiServerAudience} },
		Version:            "v1.2.3",
		Metrics:            NewMetrics(h.registry),
		Logger:             slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		MaxRequestBytes:    DefaultMaxRequestBytes,
		MaxInFlight:        DefaultMaxInFlight,
		MaxDuration:        DefaultMaxDuration,
	})
	return h
}

// counts returns the reviews counted so far, without the combinations that are 0.
func (h *harness) counts(tb testing.TB) map[string]int {
	tb.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	counts := map[string]int{}
	for _, family := range families {
		if family.GetName() != "podtoken_admission_reviews_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if n := int(metric.GetCounter().GetValue()); n > 0 {
				counts[metric.GetLabel()[0].GetValue()+"/"+metric.GetLabel()[1].GetValue()] = n
			}
		}
	}
	return counts
}

func newRequest(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/mutate?timeout=5s", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (h *harness) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// reviewOf returns a small review; replacements are pairs as for strings.NewReplacer.
func reviewOf(annotations string, replacements ...string) string {
	return strings.NewReplacer(replacements...).Replace(`{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": {
			"uid": "u-1",
			"kind": {"group": "", "version": "v1", "kind": "Pod"},
			"resource": {"group": "", "version": "v1", "resource": "pods"},
			"namespace": "shop", "operation": "CREATE", "dryRun": false,
			"object": {
				"metadata": {"generateName": "web-", "annotations": {` + annotations + `}},
				"spec": {"serviceAccountName": "web", "containers": [{"name": "app", "env": [{"name": "A", "value": "b"}]}]}
			}
		}
	}`)
}

const asksForVault = `"podtoken.dev/audience.vault": "vault"`

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// decodeAnswer decodes into the API's own type, strictly: it is the API server's side of the contract.
func decodeAnswer(tb testing.TB, body []byte) admissionv1.AdmissionReview {
	tb.Helper()
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	var answer admissionv1.AdmissionReview
	if err := decoder.Decode(&answer); err != nil {
		tb.Fatalf("decoding %s: %v", body, err)
	}
	if answer.APIVersion != "admission.k8s.io/v1" || answer.Kind != "AdmissionReview" || answer.Response == nil {
		tb.Fatalf("not a review with a response: %s", body)
	}
	if (len(answer.Response.Patch) > 0) != (answer.Response.PatchType != nil) {
		tb.Fatalf("patch without patchType or the reverse: %s", body)
	}
	return answer
}

var update = flag.Bool("update", false, "rewrite the golden files")

func checkGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is out of date, run the test with -update if this is right (-want +got):\n%s", path, diff)
	}
}
