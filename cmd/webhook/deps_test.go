package main

import (
	"os/exec"
	"strings"
	"testing"
)

// What must not be linked, and why.
var forbidden = map[string]string{
	"k8s.io/client-go/":                        "the webhook has no permissions and never calls the API server; the types of all of its groups were a third of its memory",
	"sigs.k8s.io/controller-runtime/":          "its webhook server links client-go",
	"github.com/podtoken/podtoken/pkg/sidecar": "the sidecar is a program of its own",
	"testing": "test code does not belong in the binary",
}

func TestDependencies(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dependency := range strings.Lines(string(output)) {
		dependency = strings.TrimSpace(dependency)
		for name, why := range forbidden {
			if dependency == name || strings.HasSuffix(name, "/") && strings.HasPrefix(dependency, name) {
				t.Errorf("%s is linked: %s", dependency, why)
			}
		}
	}
}
