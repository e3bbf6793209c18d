package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// changes registers a webhook that is called after podtoken's and changes every container of the namespace's Pods. The API server then calls podtoken's again.
func (n *testNamespace) changes(change func(*corev1.Container)) {
	n.t.Helper()
	var asked atomic.Int64
	n.mutateAs("z-"+n.name, admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
	}, func(_ context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		asked.Add(1)
		var pod corev1.Pod
		if json.Unmarshal(request.Object.Raw, &pod) != nil {
			return nil
		}
		var patch []map[string]any
		for field, containers := range map[string][]corev1.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
			for i := range containers {
				change(&containers[i])
			}
			if len(containers) > 0 {
				patch = append(patch, map[string]any{"op": "replace", "path": "/spec/" + field, "value": containers})
			}
		}
		encoded, err := json.Marshal(patch)
		if err != nil {
			return nil
		}
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: ptr(admissionv1.PatchTypeJSONPatch), Patch: encoded}
	})
	// The API server hears of it a moment later.
	eventually(n.t, pollShort, "the other webhook is asked", func(ctx context.Context) (bool, error) {
		_, err := n.client.CoreV1().Pods(n.name).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, Spec: podSpec()},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return asked.Load() > 0, err
	})
}

// Something hardens every container and gives each fewer resources, as policy engines and overcommit webhooks do: annotated Pods are admitted, and work.
func TestHardenedContainersAreAdmitted(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	n := newNamespace(t, nil)
	n.changes(func(c *corev1.Container) {
		if c.SecurityContext == nil {
			c.SecurityContext = &corev1.SecurityContext{}
		}
		c.SecurityContext.RunAsGroup = ptr(int64(65534))
		c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		c.Env = append(c.Env, corev1.EnvVar{Name: "TZ", Value: "Asia/Kolkata"})
		for name, request := range c.Resources.Requests {
			request.SetMilli(request.MilliValue() / 4)
			c.Resources.Requests[name] = request
		}
	})
	n.create("pod", annotations("audience", audienceDefault), podSpec())
	pod := n.ready("pod")
	sidecar := pod.Spec.InitContainers[0]
	if sidecar.Name != api.ContainerName || *sidecar.SecurityContext.RunAsGroup != 65534 {
		t.Fatalf("the first init container is %+v", sidecar)
	}
	assertReview(t, n.token("pod", "app", tokenPath), audienceDefault, pod)
}

// Something gives every container a privilege: podtoken's does not get it, and the denial tells who has to do something.
func TestPrivilegedSidecarIsDenied(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	n := newNamespace(t, nil)
	n.changes(func(c *corev1.Container) {
		c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
	})
	_, err := n.tryCreate("pod", annotations("audience", audienceDefault), podSpec())
	if err == nil || !strings.Contains(err.Error(), "securityContext.privileged is true, not false") || !strings.Contains(err.Error(), "probably changed by a policy that sets security contexts") {
		t.Errorf("creating the Pod: %v", err)
	}
}

// A variable of the application that refers to one of podtoken's is expanded.
func TestVariablesReferToTheTokens(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.Containers[0].Env = []corev1.EnvVar{{Name: "JAVA_OPTS", Value: "-Dvault.token.file=$(VAULT_TOKEN_FILE)"}}
	n.create("pod", annotations("audience.vault", audienceDefault), spec)
	n.ready("pod")
	out, err := n.exec("pod", "app", probePath, "env")
	must(t, err, "reading the environment")
	if want := "JAVA_OPTS=-Dvault.token.file=" + api.DefaultMountPath + "/vault"; !strings.Contains(out, want) {
		t.Errorf("the environment has no %s:\n%s", want, out)
	}
}
