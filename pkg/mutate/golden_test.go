package mutate

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatchapply "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what Mutate does into testdata/*.txtar")

// Sections of a case, in this order. The comment above the first tells what the case shows.
const (
	// sectionConfig is the configuration; defaultConfig when absent.
	sectionConfig = "config.yaml"
	// sectionRequest is a goldenRequest; a CREATE when absent.
	sectionRequest = "request.yaml"
	// sectionFlags has a flag per line: "unknown-fields" (the pod has fields that no API knows), "no-server: reason" (an API
	// server would not take the pod, or not in this way).
	sectionFlags = "flags"
	// sectionPod is the pod of the request. It is valid for an API server, apart from mounts of volumes that we add.
	sectionPod = "pod.yaml"
	// sectionBetween is a JSON Patch. When it is there, the pod is injected first, the patch is what another webhook does then,
	// and the wanted sections are about the second call.
	sectionBetween = "between.yaml"
	// sectionOutcome has the outcome, the reason, the message and the warnings, a line each.
	sectionOutcome = "want/outcome"
	// sectionPatch has an operation per line.
	sectionPatch   = "want/patch.json"
	sectionWantPod = "want/pod.yaml"
)

const defaultConfig = `
apiVersion: podtoken.dev/v1alpha1
kind: WebhookConfiguration
sidecar:
  image: podtoken/sidecar:v0.1.0
`

// apiServerAudiences are those of the test's API server.
var apiServerAudiences = []string{"https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local"}

type goldenRequest struct {
	Operation string `json:"operation"`
	Namespace string `json:"namespace"`
	DryRun    bool   `json:"dryRun"`
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no cases in testdata")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			archive := txtar.Parse(data)
			want := runGolden(t, archive)
			formatted := txtar.Format(want)
			if *update {
				if err := os.WriteFile(file, formatted, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), string(formatted)); diff != "" {
				t.Errorf("%s is not what Mutate does (-file +Mutate); update it with -update and review:\n%s", file, diff)
			}
		})
	}
}

// runGolden returns the archive with the sections that Mutate gives for it, in the documented order.
func runGolden(t *testing.T, archive *txtar.Archive) *txtar.Archive {
	t.Helper()
	sections := map[string][]byte{}
	for _, file := range archive.Files {
		sections[file.Name] = file.Data
	}
	if len(bytes.TrimSpace(archive.Comment)) == 0 {
		t.Error("the case has no comment that tells what it shows")
	}
	config := sections[sectionConfig]
	if config == nil {
		config = []byte(defaultConfig)
	}
	cfg := parsedConfig(t, string(config))
	request := goldenRequest{Operation: "CREATE", Namespace: "default"}
	if err := yaml.UnmarshalStrict(sections[sectionRequest], &request); err != nil {
		t.Fatal(err)
	}
	unknownFields := strings.Contains(string(sections[sectionFlags]), "unknown-fields")
	pod, err := yaml.YAMLToJSON(sections[sectionPod])
	if err != nil {
		t.Fatal(err)
	}
	input := func(pod []byte) Input {
		return Input{
			Pod: decodePod(t, pod), Namespace: request.Namespace, Operation: request.Operation,
			Config: cfg, APIServerAudiences: apiServerAudiences, Version: "v0.1.0",
		}
	}

	if between := sections[sectionBetween]; between != nil {
		first := Mutate(input(pod))
		if first.Outcome != "Injected" {
			t.Fatalf("the first call ended with %s: %s", first.Outcome, first.Message)
		}
		patch, err := yaml.YAMLToJSON(between)
		if err != nil {
			t.Fatal(err)
		}
		pod = applyJSON(t, applyJSON(t, pod, first.Patch), patch)
	}

	got := Mutate(input(pod))
	sections[sectionOutcome] = outcomeText(got)
	delete(sections, sectionPatch)
	delete(sections, sectionWantPod)
	if got.Patch != nil {
		sections[sectionPatch] = patchText(t, got.Patch)
		after := applyJSON(t, pod, got.Patch)
		checkEncoded(t, input(pod))
		checkOnlyAdded(t, pod, after)
		checkSecondRun(t, input(after))
		checkSidecarAccepts(t, after)
		if !unknownFields {
			checkStrict(t, after)
		}
		var decoded any
		if err := json.Unmarshal(after, &decoded); err != nil {
			t.Fatal(err)
		}
		sections[sectionWantPod] = mustYAML(t, decoded)
	}

	result := &txtar.Archive{Comment: archive.Comment}
	for _, name := range []string{sectionConfig, sectionRequest, sectionFlags, sectionPod, sectionBetween, sectionOutcome, sectionPatch, sectionWantPod} {
		if data, ok := sections[name]; ok {
			result.Files = append(result.Files, txtar.File{Name: name, Data: data})
			delete(sections, name)
		}
	}
	for name := range sections {
		t.Errorf("the section %q is not known", name)
	}
	return result
}

func decodePod(t testing.TB, data []byte) *Pod {
	t.Helper()
	pod, err := tryDecodePod(data)
	if err != nil {
		t.Fatalf("decoding pod: %v", err)
	}
	return pod
}

func tryDecodePod(data []byte) (*Pod, error) {
	pod := new(Pod)
	return pod, json.Unmarshal(data, pod)
}

// applyJSON applies a JSON Patch as the API server does, with the same library.
func applyJSON(t testing.TB, document, patch []byte) []byte {
	t.Helper()
	decoded, err := jsonpatchapply.DecodePatch(patch)
	if err != nil {
		t.Fatalf("decoding patch: %v", err)
	}
	after, err := decoded.Apply(document)
	if err != nil {
		t.Fatalf("applying patch %s: %v", patch, err)
	}
	return after
}

// checkSecondRun checks that a second call finds nothing to do.
func checkSecondRun(t testing.TB, in Input) {
	t.Helper()
	second := Mutate(in)
	if second.Patch != nil || second.Outcome != "Unchanged" || second.Reason != "AlreadyInjected" {
		t.Errorf("second call: %s, %s (%s), patch %s", second.Outcome, second.Reason, second.Message, second.Patch)
	}
}

// checkStrict checks that the pod has no field that the API does not know.
func checkStrict(t testing.TB, data []byte) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(new(corev1.Pod)); err != nil {
		t.Errorf("decoding the patched pod: %v", err)
	}
}

func outcomeText(result Result) []byte {
	text := fmt.Sprintf("outcome: %s\nreason: %s\nmessage: %s\n", result.Outcome, result.Reason, result.Message)
	for _, warning := range result.Warnings {
		text += "warning: " + warning + "\n"
	}
	return []byte(text)
}

func patchText(t testing.TB, patch []byte) []byte {
	t.Helper()
	var operations []json.RawMessage
	if err := json.Unmarshal(patch, &operations); err != nil {
		t.Fatal(err)
	}
	lines := make([]string, 0, len(operations))
	for _, operation := range operations {
		lines = append(lines, string(operation))
	}
	return []byte("[\n" + strings.Join(lines, ",\n") + "\n]\n")
}

func mustYAML(t testing.TB, value any) []byte {
	t.Helper()
	data, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
