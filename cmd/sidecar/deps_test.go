package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// own is the only module whose packages may be linked besides the standard library.
const own = "github.com/podtoken/podtoken/"

// forbidden packages by prefix, and what they would cost in every pod. Sizes are of a binary that does the same job.
var forbidden = map[string]string{
	"k8s.io/client-go":              "20 MB of binary and 2.5 MB of memory that pods cannot share; internal/tokenrequest is the client of the one endpoint",
	"k8s.io/api":                    "2 MB of binary; a test of internal/tokenrequest holds our own structs against these",
	"k8s.io/apimachinery":           "2 MB of binary, and a codec for each format that the API server speaks",
	"sigs.k8s.io/":                  "controller-runtime is 21 MB; its CVEs would restart every workload",
	"github.com/prometheus/":        "2.6 MB of binary; the metrics text is written by hand",
	"golang.org/x/":                 "what is needed of it is in the standard library",
	own + "pkg/mutate":              "the webhook's part: it imports k8s.io/api",
	own + "internal/admission":      "the webhook's part",
	own + "pkg/tokenfile/compile":   "the webhook's part: the parser of templates is 0.2 MB",
	own + "internal/grant":          "the controller's part",
	"github.com/google/go-cmp":      "for tests only",
	own + "internal/tokenrequest/f": "the fake API server is for tests only",
	"testing":                       "for tests only",
	"regexp":                        "300 kB; strings does it",
	"html/template":                 "half a megabyte, and it keeps the linker from removing methods",
	"text/template":                 "keeps the linker from removing methods",
	"os/exec":                       "the image has nothing to execute",
}

func TestDependencies(t *testing.T) {
	list := exec.Command("go", "list", "-deps", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dependency := range strings.FieldsSeq(string(output)) {
		for prefix, why := range forbidden {
			if strings.HasPrefix(dependency, prefix) {
				t.Errorf("%s must not be linked: %s", dependency, why)
			}
		}
		first, _, _ := strings.Cut(dependency, "/")
		if strings.Contains(first, ".") && !strings.HasPrefix(dependency, own) {
			t.Errorf("%s is not of the standard library: the sidecar runs in every pod of its users and links nothing else", dependency)
		}
	}
}

// maxBinaryBytes is the budget: it is pulled by every node.
const maxBinaryBytes = 7_000_000

func TestBinarySize(t *testing.T) {
	binary, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the binary has %d bytes", info.Size())
	if info.Size() > maxBinaryBytes {
		t.Errorf("the binary has %d bytes, the budget is %d: see `go tool nm -size -sort=size` for what grew", info.Size(), maxBinaryBytes)
	}
}
