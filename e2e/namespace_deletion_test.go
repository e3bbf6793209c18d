package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// Nothing is refreshed in a namespace that is being deleted: the API server creates no tokens there. The file stays, its token is
// good until it expires, and a refresh on request returns the cause and the remedy.
func TestNamespaceIsDeleted(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.TerminationGracePeriodSeconds = ptr(int64(90))
	spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 85}}}
	n.create("pod", annotations("audience", audienceDefault), spec)
	pod := n.ready("pod")
	t.Cleanup(func() { // the namespace waits for it
		_ = n.client.CoreV1().Pods(n.name).Delete(context.Background(), "pod", metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))})
	})
	n.refresh("pod")

	must(t, n.client.CoreV1().Namespaces().Delete(t.Context(), n.name, metav1.DeleteOptions{}), "deleting the namespace")
	n.until("pod", "is being terminated", func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	n.cannotRefresh("pod", `token "token" was not replaced`, "Forbidden (HTTP 403): the namespace is being deleted, and the API server creates no tokens in it any more",
		"the current token stays until it expires", "set a longer "+api.AnnotationExpiration, "unable to create new content in namespace "+n.name)
	before := n.token("pod", "app", tokenPath)

	time.Sleep(5 * time.Second) // the sidecar goes on to try
	if n.token("pod", "app", tokenPath) != before {
		t.Error("the file has changed")
	}
	n.assertReview(t, before, audienceDefault, pod)
	report, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandCheck)
	must(t, err, "a token that is good although its refresh fails")
	for what, text := range map[string]string{"check": report, "the log": n.logs("pod", api.ContainerName)} {
		if !strings.Contains(text, "the namespace is being deleted") || strings.Contains(text, "eyJ") {
			t.Errorf("%s does not name the cause, or shows a token:\n%s", what, text)
		}
	}
}
