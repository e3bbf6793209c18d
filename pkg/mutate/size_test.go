package mutate

import (
	"fmt"
	"go/build"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/jsonread"
)

// benchmarkPod has so many containers, each with so many variables and mounts, as an API server sends it.
func benchmarkPod(containers, variables, mounts int, annotations map[string]string) []byte {
	type object = map[string]any
	var all, volumes []any
	for v := range mounts {
		volumes = append(volumes, object{"name": fmt.Sprint("volume-", v), "configMap": object{"name": fmt.Sprint("map-", v), "defaultMode": 420}})
	}
	for c := range containers {
		var env, volumeMounts []any
		for v := range variables {
			env = append(env, object{"name": fmt.Sprint("VARIABLE_", v), "value": "some value of a usual length"})
		}
		for v := range mounts {
			volumeMounts = append(volumeMounts, object{"name": fmt.Sprint("volume-", v), "mountPath": fmt.Sprint("/etc/volume-", v), "readOnly": true})
		}
		all = append(all, object{
			"name": fmt.Sprint("container-", c), "image": "example/app:1", "imagePullPolicy": "IfNotPresent",
			"env": env, "volumeMounts": volumeMounts,
			"resources":                object{"requests": object{"cpu": "100m", "memory": "128Mi"}, "limits": object{"memory": "256Mi"}},
			"terminationMessagePath":   "/dev/termination-log",
			"terminationMessagePolicy": "File",
			"livenessProbe":            object{"httpGet": object{"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10},
		})
	}
	return mustJSON(object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"generateName": "app-5d4f8c7b9-", "labels": object{"app": "app"}, "annotations": annotations},
		"spec":     object{"containers": all, "volumes": volumes, "restartPolicy": "Always", "serviceAccountName": "default"},
	})
}

var benchmarkPods = []struct {
	name string
	pod  []byte
}{
	{"minimal", benchmarkPod(1, 0, 0, map[string]string{"podtoken.dev/audience.vault": "vault"})},
	{"typical", benchmarkPod(3, 7, 6, map[string]string{"podtoken.dev/audience.vault": "vault, https://sts.example.com", "podtoken.dev/expiration": "30m"})},
	{"large", benchmarkPod(20, 50, 31, map[string]string{"podtoken.dev/audience.vault": "vault", "podtoken.dev/audience.billing": "billing"})},
}

// BenchmarkMutate is the decision and the patch, without JSON on either side.
func BenchmarkMutate(b *testing.B) {
	cfg := parsedConfig(b, defaultConfig)
	for _, bench := range benchmarkPods {
		in := Input{Pod: decodePod(b, bench.pod), Operation: "CREATE", Config: cfg, Version: "v0.1.0"}
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if Mutate(in).Outcome != api.OutcomeInjected {
					b.Fatal("not injected")
				}
			}
		})
		in.Pod = decodePod(b, applyJSON(b, bench.pod, Mutate(in).Patch))
		b.Run(bench.name+"-again", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if Mutate(in).Outcome != api.OutcomeUnchanged {
					b.Fatal("not unchanged")
				}
			}
		})
	}
}

// BenchmarkReadPod is the JSON before it.
func BenchmarkReadPod(b *testing.B) {
	for _, bench := range benchmarkPods {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.pod)))
			for b.Loop() {
				if readPod(bench.pod) == nil {
					b.Fatal("not read")
				}
			}
		})
	}
}

func readPod(data []byte) (pod *Pod) {
	if jsonread.Document(data, func(r *jsonread.Reader) { pod = ReadPod(r) }) != nil {
		return nil
	}
	return pod
}

// TestReadAllocations: what reading takes beside the document is for the lists of the pod, and for a pod that does not ask
// there is nothing that grows with it.
func TestReadAllocations(t *testing.T) {
	// The least of many: the race detector empties pools at random.
	allocations := func(pod []byte) float64 {
		least := math.Inf(1)
		for range 50 {
			least = min(least, testing.AllocsPerRun(1, func() {
				if readPod(pod) == nil {
					t.Fatal("not read")
				}
			}))
		}
		return least
	}
	asks := map[string]string{"podtoken.dev/audience.vault": "vault"}
	few, many := allocations(benchmarkPod(2, 7, 6, asks)), allocations(benchmarkPod(2, 15, 15, asks))
	if few != many {
		t.Errorf("%v allocations for few variables, mounts and volumes, %v for more", few, many)
	}
	none, large := allocations(benchmarkPod(1, 0, 0, nil)), allocations(benchmarkPod(20, 50, 31, nil))
	if none != large {
		t.Errorf("a pod that does not ask takes %v allocations, a large one %v", none, large)
	}
}

// TestPatchSize holds the size of the patch, which the API server applies for every pod. Each container costs a mount and,
// for each token, a variable.
func TestPatchSize(t *testing.T) {
	cfg := parsedConfig(t, defaultConfig)
	size := func(containers int, annotations map[string]string) int {
		pod := decodePod(t, benchmarkPod(containers, 50, 31, annotations))
		return len(Mutate(Input{Pod: pod, Operation: "CREATE", Config: cfg, Version: "v0.1.0"}).Patch)
	}
	tests := map[string]struct {
		annotations    map[string]string
		growth, twenty int
	}{
		"the mount alone":         {map[string]string{"podtoken.dev/audience.vault": "vault", "podtoken.dev/env.vault": "none"}, 150, 5200},
		"with a token's variable": {map[string]string{"podtoken.dev/audience.vault": "vault"}, 280, 8000},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			one, twenty := size(1, test.annotations), size(20, test.annotations)
			t.Logf("one container %d bytes, twenty %d, growth %d", one, twenty, (twenty-one)/19)
			if growth := (twenty - one) / 19; growth > test.growth {
				t.Errorf("each container adds %d bytes, want at most %d", growth, test.growth)
			}
			if twenty > test.twenty {
				t.Errorf("the patch for 20 containers has %d bytes, want at most %d", twenty, test.twenty)
			}
		})
	}
}

// TestImports holds the contract of the package comment.
func TestImports(t *testing.T) {
	allowed := []string{
		"github.com/podtoken/podtoken/pkg/jsonread",
		"github.com/podtoken/podtoken/pkg/api",
		"github.com/podtoken/podtoken/pkg/sidecar/config",
		"github.com/podtoken/podtoken/pkg/tokenfile/compile",
		"github.com/go-json-experiment/json/jsontext",
		"k8s.io/api/core/v1",
		"k8s.io/apimachinery/pkg/api/resource",
		"k8s.io/apimachinery/pkg/apis/meta/v1",
		"k8s.io/apimachinery/pkg/util/intstr",
		"sigs.k8s.io/yaml",
	}
	forbidden := map[string]string{
		"os": "the package does no I/O", "net": "the package does no I/O", "net/http": "the package does no I/O",
		"log": "callers log", "log/slog": "callers log", "math/rand": "results are deterministic", "math/rand/v2": "results are deterministic",
		"sync": "nothing is shared", "context": "nothing blocks",
	}
	pkg, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pkg.Imports {
		if reason, bad := forbidden[path]; bad {
			t.Errorf("%s is imported: %s", path, reason)
		}
		if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") && !slices.Contains(allowed, path) {
			t.Errorf("%s is imported, and is not in the list of this test", path)
		}
	}
}

// TestGoldenCoverage: there is a case for every annotation and for every reason that a pod can get.
func TestGoldenCoverage(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	annotations, reasons := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range txtar.Parse(data).Files {
			switch section.Name {
			case sectionPod:
				var pod Pod
				if err := yaml.Unmarshal(section.Data, &pod); err != nil {
					t.Fatal(err)
				}
				for key := range pod.Metadata.Annotations {
					base, _, suffixed := strings.Cut(strings.TrimPrefix(key, "podtoken.dev/"), ".")
					annotations[fmt.Sprint(base, suffixed)] = true
				}
			case sectionOutcome:
				_, rest, _ := strings.Cut(string(section.Data), "reason: ")
				reason, _, _ := strings.Cut(rest, "\n")
				reasons[reason] = true
			}
		}
	}
	for key, scope := range settings {
		base := strings.TrimPrefix(key, "podtoken.dev/")
		if scope != tokenScope && !annotations[base+"false"] || scope != podScope && !annotations[base+"true"] {
			t.Errorf("no case has the annotation %s in all its forms", key)
		}
	}
	for _, reason := range api.Reasons() {
		switch reason {
		case api.ReasonNotAPod, api.ReasonNotAllowed, api.ReasonMalformed, api.ReasonTooLarge, api.ReasonDeadline, api.ReasonOverloaded, api.ReasonInternal:
			continue // Of the caller's layer, of the policy, or without a pod.
		}
		if !reasons[string(reason)] {
			t.Errorf("no case ends with the reason %s", reason)
		}
	}
}
