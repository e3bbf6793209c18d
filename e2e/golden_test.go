package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
)

// unservedNamespace is one that the installation excludes from its webhook.
const unservedNamespace = "e2e-unserved"

// goldenCase is one file of pkg/mutate/testdata; golden_test.go there documents the sections.
type goldenCase struct {
	name     string
	sections map[string]string
}

func readGoldenCases(t *testing.T) []goldenCase {
	t.Helper()
	files, err := filepath.Glob("../pkg/mutate/testdata/*.txtar")
	must(t, err, "listing golden cases")
	var cases []goldenCase
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		must(t, err, "reading %s", file)
		c := goldenCase{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), sections: map[string]string{}}
		for _, f := range archive.Files {
			c.sections[f.Name] = string(f.Data)
		}
		cases = append(cases, c)
	}
	return cases
}

func (c goldenCase) flag(name string) bool { return strings.Contains(c.sections["flags"], name) }

// outcome returns the wanted outcome, message and warnings.
func (c goldenCase) outcome() (outcome, message string, warnings []string) {
	for line := range strings.Lines(c.sections["want/outcome"]) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "outcome":
			outcome = value
		case "message":
			message = value
		case "warning":
			warnings = append(warnings, value)
		}
	}
	return outcome, message, warnings
}

// injectedSection is the pod after injection.
const injectedSection = "want/pod.yaml"

// pod returns a section as the body of a request to create it in a namespace. The pod after injection has one more annotation, so that neither
// the webhook nor the policies that look for injected pods have to do with it.
func (c goldenCase) pod(t *testing.T, section, namespace string) (body []byte, serviceAccount string) {
	t.Helper()
	var pod map[string]any
	must(t, yaml.Unmarshal([]byte(c.sections[section]), &pod), "decoding %s of %s", section, c.name)
	pod["apiVersion"], pod["kind"] = "v1", "Pod"
	metadata, _ := pod["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata["namespace"] = namespace
	if section == injectedSection {
		annotations, _ := metadata["annotations"].(map[string]any)
		if annotations == nil {
			annotations = map[string]any{}
		}
		annotations[api.AnnotationInject] = "false"
		metadata["annotations"] = annotations
	}
	if metadata["name"] == nil && metadata["generateName"] == nil {
		metadata["generateName"] = "golden-"
	}
	pod["metadata"] = metadata
	spec, _ := pod["spec"].(map[string]any)
	serviceAccount, _ = spec["serviceAccountName"].(string)
	body, err := json.Marshal(pod)
	must(t, err, "encoding %s", c.name)
	return body, serviceAccount
}

// Every golden case of pkg/mutate, seen by a real API server with strict field validation and as a dry run: the pod
// after injection is valid as it stands, and the pod before injection
// gets from the running webhook the answer and the warnings that the golden file says.
func TestGoldenPodsOnTheAPIServer(t *testing.T) {
	t.Parallel()
	served := newNamespace(t, nil)
	warnings := &warningCollector{}
	warned := clientWithWarnings(t, warnings)
	valid, denied, admitted := 0, 0, 0
	for _, c := range readGoldenCases(t) {
		if c.flag("no-server") || c.flag("unknown-fields") {
			continue
		}
		outcome, message, wantWarnings := c.outcome()
		if c.sections[injectedSection] != "" {
			valid++
			if _, err := dryRun(t, warned, c, injectedSection, served.name); err != nil {
				t.Errorf("%s: the injected pod is not valid: %v", c.name, err)
			}
		}
		if c.sections["config.yaml"] != "" || c.sections["between.yaml"] != "" || c.sections["request.yaml"] != "" {
			continue // not what the running webhook is configured or asked for
		}
		warnings.reset()
		got, err := dryRun(t, warned, c, "pod.yaml", served.name)
		switch {
		case outcome == "Denied":
			denied++
			if got := denial(t, err); !strings.Contains(got, message) {
				t.Errorf("%s: denied with %q, want %q", c.name, got, message)
			}
		case err != nil:
			t.Errorf("%s: refused: %v", c.name, err)
		default:
			admitted++
			if diff := cmp.Diff(wantWarnings, warnings.list()); diff != "" {
				t.Errorf("%s: warnings (-golden +API server):\n%s", c.name, diff)
			}
			if diff := cmp.Diff(c.injected(t), injectedPart(got)); diff != "" {
				t.Errorf("%s: what is injected (-golden +API server):\n%s", c.name, diff)
			}
		}
	}
	t.Logf("%d injected pods are valid, %d pods were admitted and %d denied as their golden file says", valid, admitted, denied)
	if valid < 50 || denied < 50 || admitted < 30 {
		t.Error("too few cases met the API server")
	}
}

// injection is what the webhook adds to a pod, as far as it does not depend on the installation.
type injection struct {
	Label string
	// Args of the first init container, if it is the sidecar.
	Args []string
	// Mounts of the token volume and variables that point to it, by container.
	Mounts, Variables map[string][]string
}

// injected is what the golden file says; nothing for a pod that is left alone.
func (c goldenCase) injected(t *testing.T) injection {
	t.Helper()
	section := "want/pod.yaml"
	if c.sections[section] == "" {
		section = "pod.yaml"
	}
	var pod corev1.Pod
	must(t, yaml.Unmarshal([]byte(c.sections[section]), &pod), "decoding %s of %s", section, c.name)
	return injectedPart(&pod)
}

func injectedPart(pod *corev1.Pod) injection {
	part := injection{Label: pod.Labels[api.LabelInjected], Mounts: map[string][]string{}, Variables: map[string][]string{}}
	if len(pod.Spec.InitContainers) > 0 && pod.Spec.InitContainers[0].Name == api.ContainerName {
		part.Args = pod.Spec.InitContainers[0].Args
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			if m.Name == api.VolumeTokens {
				part.Mounts[c.Name] = append(part.Mounts[c.Name], m.MountPath)
			}
		}
		for _, e := range c.Env {
			part.Variables[c.Name] = append(part.Variables[c.Name], e.Name+"="+e.Value)
		}
	}
	return part
}

// dryRun creates a golden pod without storing it, and returns what would have been stored.
func dryRun(t *testing.T, client kubernetes.Interface, c goldenCase, section, namespace string) (*corev1.Pod, error) {
	t.Helper()
	body, account := c.pod(t, section, namespace)
	if account != "" {
		_, err := client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("creating ServiceAccount %q: %v", account, err)
		}
	}
	pod := new(corev1.Pod)
	return pod, client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").
		Param("dryRun", "All").Param("fieldValidation", "Strict").
		SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Into(pod)
}

// waitForDefaultAccount waits for the ServiceAccount that the controller manager makes in every namespace.
func (w *world) waitForDefaultAccount(t *testing.T, namespace string) {
	t.Helper()
	eventually(t, pollShort, "the default ServiceAccount of "+namespace+" exists", func(ctx context.Context) (bool, error) {
		_, err := w.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
}
