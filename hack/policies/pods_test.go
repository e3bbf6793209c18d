package policies

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// plain is a Pod with the annotations and as many containers.
func plain(annotations map[string]string, containers int) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "app", Annotations: annotations}}
	pod.Spec.ServiceAccountName = "app"
	for i := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: fmt.Sprintf("c%d", i), Image: "app:1"})
	}
	return pod
}

// padded returns the annotations and n others, half of which are sorted before them and half behind.
func padded(annotations map[string]string, n int) map[string]string {
	all := maps.Clone(annotations)
	if all == nil {
		all = map[string]string{}
	}
	for i := range n {
		all[fmt.Sprintf("%c%05x", "az"[i%2], i)] = ""
	}
	return all
}

// injected is the Pod as the webhook makes it.
func injected(tb testing.TB, pod *corev1.Pod) *corev1.Pod {
	tb.Helper()
	cfg, err := mutate.ParseConfig([]byte(`{"apiVersion": "podtoken.dev/v1alpha1", "kind": "WebhookConfiguration", "sidecar": {"image": "podtoken/sidecar:0.1.0"},
		"profiles": {"cloud": {"aws-role-arn.aws": "arn:aws:iam::123456789012:role/r"},
			"clouds": {"aws-role-arn.aws": "arn:aws:iam::123456789012:role/r", "azure-client-id.azure": "00000000-0000-0000-0000-000000000000", "azure-tenant-id.azure": "t"}}}`))
	if err != nil {
		tb.Fatal(err)
	}
	data, err := json.Marshal(pod)
	if err != nil {
		tb.Fatal(err)
	}
	in := mutate.Input{Pod: new(mutate.Pod), Namespace: "default", Operation: "CREATE", Config: cfg, Version: "v0.1.0"}
	if err := json.Unmarshal(data, in.Pod); err != nil {
		tb.Fatal(err)
	}
	result := mutate.Mutate(in)
	if result.Outcome != "Injected" {
		tb.Fatalf("%s: %s", result.Outcome, result.Message)
	}
	patch, err := jsonpatch.DecodePatch(result.Patch)
	if err != nil {
		tb.Fatal(err)
	}
	if data, err = patch.Apply(data); err != nil {
		tb.Fatal(err)
	}
	out := new(corev1.Pod)
	if err := json.Unmarshal(data, out); err != nil {
		tb.Fatal(err)
	}
	return out
}
