package main

import (
	"os/exec"
	"strings"
	"testing"
)

// What must not be linked, and why.
var forbidden = map[string]string{
	"github.com/podtoken/podtoken/internal/tokenrequest": "the controller hands out the right to mint tokens and never mints one",
	"github.com/podtoken/podtoken/internal/admission":    "admission is the webhook's",
	"github.com/podtoken/podtoken/pkg/sidecar":           "the sidecar is a program of its own",
	"sigs.k8s.io/controller-runtime/pkg/client/config":   "its init registers a flag and reads the environment; --kubeconfig is ours",
	"sigs.k8s.io/controller-runtime/pkg/client/fake":     "test code does not belong in the binary",
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters": "metrics have no secrets, and authorizing a scrape would need more permissions",
	"k8s.io/client-go/plugin/pkg/client/auth":            "in a cluster there is only one way to authenticate",
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
