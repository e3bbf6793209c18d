package docs

import (
	"encoding/json"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

var fence = regexp.MustCompile("(?ms)^ *```yaml\n(.*?)^ *```$")

// Every pod in the documents that has annotations is injected as it stands, without a warning.
func TestPodsInDocumentsAreInjected(t *testing.T) {
	cfg, err := mutate.ParseConfig([]byte("apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar:\n  image: podtoken/sidecar:1\n"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, document := range documents(t) {
		for _, block := range fence.FindAllStringSubmatch(read(t, document), -1) {
			var pod corev1.Pod
			if err := yaml.Unmarshal([]byte(block[1]), &pod); err != nil || pod.Kind != "Pod" || len(pod.Annotations) == 0 {
				continue
			}
			decode(t, block[1], &corev1.Pod{})
			found++
			encoded, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			var in mutate.Pod
			if err := json.Unmarshal(encoded, &in); err != nil {
				t.Fatal(err)
			}
			result := mutate.Mutate(mutate.Input{Pod: &in, Namespace: "shop", Operation: "CREATE", Config: cfg,
				APIServerAudiences: []string{"https://kubernetes.default.svc"}})
			if result.Outcome != api.OutcomeInjected || len(result.Warnings) != 0 {
				t.Errorf("%s, pod %s: %s, %s, warnings %q", document, pod.Name, result.Outcome, result.Message, result.Warnings)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d pods were found", found)
	}
}

// Annotations and labels that documents and examples name exist.
func TestAnnotationsInDocumentsExist(t *testing.T) {
	known := map[string]bool{}
	for _, key := range matches(t, "pkg/api", `(?:Annotation|Label)\w+\s+= Prefix \+ "([^".]+)`) {
		known[key] = true
	}
	examples, err := filepath.Glob(filepath.Join(root, "manifests/examples/*.yaml"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("got %q, %v: want examples", examples, err)
	}
	documents := documents(t)
	for _, example := range examples {
		documents = append(documents, strings.TrimPrefix(example, root+"/"))
	}
	annotation := regexp.MustCompile(`podtoken\.dev/([a-z][a-z0-9-]*)`)
	for _, document := range documents {
		text := read(t, document)
		for _, m := range annotation.FindAllStringSubmatchIndex(text, -1) {
			before, key := text[:m[0]], text[m[2]:m[3]]
			switch {
			case strings.HasSuffix(before, "/secrets/"): // a path below the mount directory
			case strings.HasSuffix(before, "pods."), strings.HasSuffix(before, "audiences."): // keys of the audit log, a resource
			case strings.HasSuffix(before, "apiVersion: "):
			case key == "guard-probe": // an audience
			case !known[key]:
				t.Errorf("%s names podtoken.dev/%s, which does not exist", document, key)
			}
		}
	}
}

// Metrics that documents name are in docs/reference.md, which is held against the code.
func TestMetricsInDocumentsExist(t *testing.T) {
	reference := read(t, "docs/reference.md")
	for _, document := range documents(t) {
		for _, metric := range regexp.MustCompile(`\bpodtoken_\w+`).FindAllString(read(t, document), -1) {
			if !strings.Contains(reference, "`"+metric) {
				t.Errorf("%s names the metric %s, which docs/reference.md does not have", document, metric)
			}
		}
	}
}

// The policy in docs/installation.md is one.
func TestPolicyInInstallation(t *testing.T) {
	var values struct {
		Policy struct {
			Allow any `json:"allow"`
		} `json:"policy"`
		Tokens struct {
			MaxExpiration string `json:"maxExpiration"`
		} `json:"tokens"`
	}
	block := fence.FindStringSubmatch(read(t, "docs/installation.md"))[1]
	if err := yaml.Unmarshal([]byte(block), &values); err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(map[string]any{
		"apiVersion": "podtoken.dev/v1alpha1", "kind": "PolicyConfiguration",
		"allow": values.Policy.Allow, "maxExpiration": values.Tokens.MaxExpiration,
	})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := policy.Parse(encoded)
	if err != nil || parsed.Rules() != 2 {
		t.Errorf("got %v, %v: want two rules", parsed, err)
	}
}

// The arithmetic of docs/operations.md is that of the sidecar's schedule (refresh in pkg/sidecar/schedule.go).
func TestLoadInOperations(t *testing.T) {
	divisor, err := strconv.ParseFloat(matches(t, "pkg/sidecar", `jitterDivisor = (\d+)`)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	if got := matches(t, "pkg/sidecar", `maxInterval = (.+)`)[0]; got != "24 * time.Hour" {
		t.Fatalf("maxInterval is %s: the document and this test have to follow", got)
	}
	table := rows(section(t, read(t, "docs/operations.md"), "## Load on the API server"))
	if len(table) < 5 {
		t.Fatalf("%d rows", len(table))
	}
	for _, cells := range table {
		lifetime, err := time.ParseDuration(strings.Trim(cells[0], "`"))
		if err != nil {
			t.Fatal(err)
		}
		interval := min(lifetime.Seconds()*api.DefaultRefreshAtPercent/100, 24*3600)
		interval -= interval / divisor / 2 // the mean of the jitter
		want := 1000 / interval
		if got, err := strconv.ParseFloat(cells[2], 64); err != nil || math.Abs(got-want) > want/100 {
			t.Errorf("%s: %s requests per second, want %.4f", cells[0], cells[2], want)
		}
		number, unit, _ := strings.Cut(cells[1], " ")
		every, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatal(err)
		}
		if seconds := map[string]float64{"minutes": 60, "hours": 3600}[unit] * every; math.Abs(seconds-interval) > interval/100 {
			t.Errorf("%s: every %s, want %.0f s", cells[0], cells[1], interval)
		}
	}
}
