package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"

	"github.com/podtoken/podtoken/internal/plugin"
)

// commands are all commands that do something, with their parents.
func commands(command *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, below := range command.Commands() {
		if below.Name() != "help" && below.Name() != "completion" {
			all = append(append(all, below), commands(below)...)
		}
	}
	return all
}

func newTestEnv(out *bytes.Buffer) *plugin.Env {
	return plugin.NewEnv(genericiooptions.IOStreams{In: strings.NewReader(""), Out: out, ErrOut: out})
}

// Every command says what it is for, with an example, and help goes to standard output with exit code 0.
func TestHelp(t *testing.T) {
	all := commands(newRoot(newTestEnv(&bytes.Buffer{})))
	if len(all) != 9 {
		t.Errorf("%d commands", len(all))
	}
	for _, command := range all {
		path := strings.Fields(command.CommandPath())[2:]
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			if command.Short == "" || command.Parent().Parent() == nil && (command.Long == "" || command.Example == "") {
				t.Error("the command does not say what it is for, or has no example")
			}
			if strings.HasSuffix(command.Short, ".") {
				t.Errorf("%q ends with a full stop", command.Short)
			}
			var out bytes.Buffer
			if err := run(t.Context(), append(slices.Clone(path), "--help"), newTestEnv(&out)); err != nil || !strings.Contains(out.String(), "Usage:\n  kubectl podtoken "+path[0]) {
				t.Errorf("--help prints, with error %v:\n%s", err, out.String())
			}
		})
	}
}

// Pods and ServiceAccounts are completed, also by way of kubectl, which runs the program under another name for that.
func TestCompletion(t *testing.T) {
	b := installed(t)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"commands":        {[]string{"kubectl_complete-podtoken", "ins"}, "inspect\tPrint the claims of tokens on disk, never a signature\n:4\n"},
		"pods":            {[]string{"/usr/bin/kubectl_complete-podtoken", "status", "-n", "payments", ""}, "app-1\n:4\n"},
		"ServiceAccounts": {[]string{"kubectl_complete-podtoken", "kubeconfig", "-n", "podtoken-system", "podtoken-w"}, "podtoken-webhook\n:4\n"},
		"only the first":  {[]string{"kubectl_complete-podtoken", "status", "-n", "payments", "app-1", ""}, ":4\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", "/nowhere")
			var out bytes.Buffer
			e := newTestEnv(&out)
			e.ErrOut = &bytes.Buffer{}
			e.Connect = func() (*plugin.Cluster, error) {
				namespace, err := e.Namespace()
				return b.cluster(t, map[string]string{sectionCluster: injectedPod}, namespace), err
			}
			if err := run(t.Context(), arguments(test.args), e); err != nil || out.String() != test.want {
				t.Errorf("got %q, %v, want %q", out.String(), err, test.want)
			}
		})
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"completion", "bash"}, newTestEnv(&out)); err != nil || !strings.Contains(out.String(), "__start_kubectl-podtoken") {
		t.Errorf("completion bash: %v", err)
	}
}

const injectedPod = `
apiVersion: v1
kind: Pod
metadata: {name: app-1, namespace: payments, labels: {podtoken.dev/injected: "true"}}
`

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, newTestEnv(&out)); err != nil || out.String() != "v0.0.0-dev\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// An error is told once, by run: client-go's own log of it would come before.
func TestClientsAreSilent(t *testing.T) {
	defer klog.CaptureState().Restore()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = stderr }()
	silenceClients()
	utilruntime.HandleError(errors.New("connection refused"))
	klog.Error("connection refused")
	klog.Flush()
	if written, err := os.ReadFile(file.Name()); err != nil || len(written) > 0 {
		t.Errorf("the log says %q, %v", written, err)
	}
}

// forbidden is what the plugin must not link, and why.
var forbidden = map[string]string{
	"sigs.k8s.io/controller-runtime":                       "the plugin runs no controllers",
	"github.com/prometheus/":                               "the plugin exports no metrics",
	"github.com/podtoken/podtoken/internal/admission":      "the server around the decision; internal/plugin/decide has the decision",
	"github.com/podtoken/podtoken/internal/grant":          "the controller is a program of its own",
	"github.com/podtoken/podtoken/internal/tokenrequest":   "the sidecar's client",
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest": "for tests only",
	"testing": "test code does not belong in the binary",
}

func TestDependencies(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dependency := range strings.FieldsSeq(string(output)) {
		for prefix, why := range forbidden {
			if dependency == prefix || strings.HasPrefix(dependency, strings.TrimSuffix(prefix, "/")+"/") {
				t.Errorf("%s is linked: %s", dependency, why)
			}
		}
	}
}
