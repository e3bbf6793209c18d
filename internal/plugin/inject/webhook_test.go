package inject

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/tools/txtar"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/internal/admission"
	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/decide"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/mutate"
)

const (
	defaultConfig = "apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar:\n  image: podtoken/sidecar:v0.1.0\n"
	testVersion   = "v0.1.0"
	testNamespace = "payments"
	testPolicy    = `
apiVersion: podtoken.dev/v1alpha1
kind: PolicyConfiguration
allow: [{name: everything, namespaces: ["*"], serviceAccounts: ["*"], audiences: ["*", "https://kubernetes.default.svc"]}]
maxPerPod: 256
`
)

// `inject -f` is what the webhook does, for every golden pod of pkg/mutate, by itself and as the template of every kind of workload: the
// webhook is the real handler, which gets an AdmissionReview and answers with a patch.
func TestInjectEqualsTheWebhook(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	files, err := filepath.Glob("../../../pkg/mutate/testdata/*.txtar")
	if err != nil || len(files) < 150 {
		t.Fatalf("%d golden pods, %v", len(files), err)
	}
	injected, refused := 0, 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			content := map[string][]byte{"config.yaml": []byte(defaultConfig)}
			for _, f := range archive.Files {
				content[f.Name] = f.Data
			}
			pod, err := yaml.YAMLToJSON(content["pod.yaml"])
			if err != nil {
				t.Fatal(err)
			}
			config, err := mutate.ParseConfig(content["config.yaml"])
			if err != nil {
				t.Fatal(err)
			}
			allowed, err := policy.Parse([]byte(testPolicy))
			if err != nil {
				t.Fatal(err)
			}
			rules := decide.Rules{Config: config, Policy: allowed, APIServerAudiences: []string{"https://kubernetes.default.svc"}, Version: testVersion}
			answer := review(t, rules, pod)
			for kind, wrap := range wrappers {
				got, stderr, err := run(t, wrap(t, pod), rules)
				if !answer.Allowed {
					refused++
					if err == nil || len(got) > 0 || !strings.Contains(err.Error(), answer.Result.Message) || !strings.Contains(err.Error(), string(answer.Result.Reason)) {
						t.Errorf("%s: the webhook says %q (%s), inject says %v", kind, answer.Result.Message, answer.Result.Reason, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", kind, err)
					continue
				}
				want := pod
				if len(answer.Patch) > 0 {
					injected++
					patch, err := jsonpatch.DecodePatch(answer.Patch)
					if err != nil {
						t.Fatal(err)
					}
					if want, err = patch.Apply(pod); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(decoded(t, wrap(t, want)), decoded(t, got)); diff != "" {
					t.Errorf("%s: webhook and inject differ (-webhook +inject):\n%s", kind, diff)
				}
				for _, warning := range answer.Warnings {
					if !strings.Contains(stderr, warning) {
						t.Errorf("%s: the webhook warns %q, inject says %q", kind, warning, stderr)
					}
				}
			}
		})
	}
	if injected < 150 || refused < 150 {
		t.Errorf("only %d were injected and %d refused", injected, refused)
	}
}

// review has the webhook decide about a pod.
func review(t *testing.T, rules decide.Rules, pod []byte) *admissionv1.AdmissionResponse {
	t.Helper()
	handler := admission.NewHandler(admission.Config{
		Rules:              func() *mutate.Config { return rules.Config },
		Policy:             func() *policy.Policy { return rules.Policy },
		APIServerAudiences: func() []string { return rules.APIServerAudiences },
		Version:            rules.Version,
		Metrics:            admission.NewMetrics(prometheus.NewRegistry()),
		Logger:             slog.New(slog.DiscardHandler),
		MaxRequestBytes:    admission.DefaultMaxRequestBytes,
		MaxDuration:        admission.DefaultMaxDuration,
		MaxInFlight:        1,
	})
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "1", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Namespace: testNamespace, Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: pod},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mutate", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.Response == nil {
		t.Fatalf("the webhook answers %d %s", recorder.Code, recorder.Body)
	}
	return answer.Response
}

// wrappers put a pod into each kind of object that has one.
var wrappers = map[string]func(t *testing.T, pod []byte) []byte{
	"Pod":                   func(_ *testing.T, pod []byte) []byte { return pod },
	"Deployment":            workload("apps/v1", "Deployment", "spec", "template"),
	"StatefulSet":           workload("apps/v1", "StatefulSet", "spec", "template"),
	"DaemonSet":             workload("apps/v1", "DaemonSet", "spec", "template"),
	"ReplicaSet":            workload("apps/v1", "ReplicaSet", "spec", "template"),
	"ReplicationController": workload("v1", "ReplicationController", "spec", "template"),
	"Job":                   workload("batch/v1", "Job", "spec", "template"),
	"CronJob":               workload("batch/v1", "CronJob", "spec", "jobTemplate", "spec", "template"),
	"PodTemplate":           workload("v1", "PodTemplate", "template"),
	"List": func(t *testing.T, pod []byte) []byte {
		item := workload("apps/v1", "Deployment", "spec", "template")(t, pod)
		return encoded(t, map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{decoded(t, pod), decoded(t, item)}})
	},
	"PodList": func(t *testing.T, pod []byte) []byte {
		item := decoded(t, pod).(map[string]any)
		delete(item, "apiVersion")
		delete(item, "kind")
		return encoded(t, map[string]any{"apiVersion": "v1", "kind": "PodList", "items": []any{item}})
	},
}

func workload(apiVersion, kind string, path ...string) func(t *testing.T, pod []byte) []byte {
	return func(t *testing.T, pod []byte) []byte {
		template := decoded(t, pod).(map[string]any)
		delete(template, "apiVersion")
		delete(template, "kind")
		var value any = template
		for i := len(path) - 1; i >= 0; i-- {
			value = map[string]any{path[i]: value, "unknown": 12345678901234567.0}
		}
		object := value.(map[string]any)
		object["apiVersion"], object["kind"] = apiVersion, kind
		object["metadata"] = map[string]any{"name": "workload", "namespace": testNamespace}
		return encoded(t, object)
	}
}

func encoded(t *testing.T, value any) []byte {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decoded(t *testing.T, content []byte) any {
	t.Helper()
	var value any
	if err := yaml.Unmarshal(content, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// run is the command, without a cluster, on standard input.
func run(t *testing.T, input []byte, rules decide.Rules) (stdout []byte, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	e := plugin.NewEnv(genericiooptions.IOStreams{In: bytes.NewReader(input), Out: &out, ErrOut: &errOut})
	namespace := testNamespace
	e.Flags.Namespace = &namespace
	err = (&options{files: []string{"-"}}).inject(e, rules)
	return out.Bytes(), errOut.String(), err
}
