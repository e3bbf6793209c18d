package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// changes registers a webhook that is called after podtoken's and changes every container of the namespace's Pods. The API server then calls podtoken's again.
func (n *testNamespace) changes(change func(*corev1.Container)) {
	n.t.Helper()
	n.mutatePods("z-"+n.name, func(pod *corev1.Pod) (patch []map[string]any) {
		for field, containers := range map[string][]corev1.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
			for i := range containers {
				change(&containers[i])
			}
			if len(containers) > 0 {
				patch = append(patch, map[string]any{"op": "replace", "path": "/spec/" + field, "value": containers})
			}
		}
		return patch
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
