package main

import (
	"os/exec"
	"strings"
	"testing"
)

// What must not be linked, and why.
var forbidden = map[string]string{
	"sigs.k8s.io/controller-runtime/pkg/manager": "the webhook has no permissions and needs no API client, cache or leader election",
	"sigs.k8s.io/controller-runtime/pkg/client":  "the webhook never calls the API server",
	"sigs.k8s.io/controller-runtime/pkg/cache":   "a cache can be late; everything a decision needs is in the review",
	"github.com/podtoken/podtoken/pkg/sidecar":   "the sidecar is a program of its own",
	"testing": "test code does not belong in the binary",
}

func TestDependencies(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dependency := range strings.Lines(string(output)) {
		if why, ok := forbidden[strings.TrimSpace(dependency)]; ok {
			t.Errorf("%s is linked: %s", strings.TrimSpace(dependency), why)
		}
	}
}
