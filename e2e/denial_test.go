package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const podManifest = `
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: %s
  annotations: {podtoken.dev/audience.vault: vault, %s}
spec:
  serviceAccountName: app
  containers: [{name: app, image: %s}]
`

const deploymentManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %s}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {podtoken.dev/audience.vault: vault, podtoken.dev/expiration: 5m}
    spec:
      serviceAccountName: app
      containers: [{name: app, image: %s}]
`

// A bad annotation is refused where its author looks: at once by `kubectl apply` of a pod, and in the ReplicaSet's
// events (and the Deployment's condition) for a Deployment.
func TestDenialReachesTheUser(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	for bad, want := range map[string][]string{
		"podtoken.dev/expiration: 5m":           {"podtoken.dev/expiration", `"5m"`, "10m"},
		"podtoken.dev/audiance.x: why":          {"podtoken.dev/audiance.x", "podtoken.dev/audience.x"},
		`podtoken.dev/file-mode: "0666"`:        {"podtoken.dev/file-mode", `"0666"`},
		"podtoken.dev/path.other: x":            {"podtoken.dev/path.other", "podtoken.dev/audience.other"},
		"podtoken.dev/mount-path: relative/dir": {"podtoken.dev/mount-path", `"relative/dir"`},
	} {
		out, err := testCluster.Kubectl(t.Context(), strings.NewReader(fmt.Sprintf(podManifest, "bad", n.name, bad, probeImage)), "apply", "-f", "-")
		if err == nil {
			t.Errorf("%s: kubectl apply succeeded", bad)
			continue
		}
		text := out + err.Error()
		for _, w := range append(want, "denied the request: podtoken: ") {
			if !strings.Contains(text, w) {
				t.Errorf("%s: kubectl says nothing of %q:\n%s", bad, w, text)
			}
		}
	}

	_, err := testCluster.Kubectl(t.Context(), strings.NewReader(fmt.Sprintf(deploymentManifest, n.name, probeImage)), "apply", "-f", "-")
	must(t, err, "applying the Deployment")
	eventually(t, time.Minute, "an event of the ReplicaSet carries the denial", func(ctx context.Context) (bool, error) {
		events, err := client.CoreV1().Events(n.name).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=ReplicaSet,reason=FailedCreate"})
		if err != nil {
			return false, err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, "podtoken.dev/expiration") && strings.Contains(e.Message, `"5m"`) {
				return true, nil
			}
		}
		return false, nil
	})
	out, err := testCluster.Kubectl(t.Context(), nil, "-n", n.name, "describe", "deployment", "web")
	must(t, err, "describing the Deployment")
	if !strings.Contains(out, "ReplicaFailure") {
		t.Errorf("kubectl describe deployment does not show the failure:\n%s", out)
	}
}
