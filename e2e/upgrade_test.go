package e2e

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// previousValues are values that the previous version knows too.
func previousValues() []string {
	return []string{"--set", "webhook.drainSeconds=5", "--set", "controller.removalDelay=" + removalDelay.String()}
}

// The previous version, this one, the previous one by `helm rollback`, this one again. Pods that either version injected get a
// new token at every moment of it, not one creation of a pod fails, and new pods are the work of the version that is installed.
func (w *world) upgradeAndRollback(t *testing.T) {
	previous, present := previousVersion(t), w.root(t)
	w.install(t, previous, previousValues()...)
	n := w.newNamespace(t, allowedPrefix, nil)
	pods := n.stream(100)
	readers := []*reader{n.reader("before")}
	old := n.injectedBy("before")

	w.install(t, present, previousValues()...)
	w.settled(t)
	readers = append(readers, n.reader("upgraded"))
	now := n.injectedBy("upgraded")
	if now == old {
		t.Fatalf("both pods were injected by version %q: there was no upgrade", now)
	}

	// A sidecar with arguments of which the previous version knows nothing.
	n.runAs("newer", "newer", annotations("audience.db", "db", "format.db", "json"))

	w.helm(t, "rollback", cluster.Release, "1", "--wait", "--timeout", "3m")
	w.settled(t)
	readers = append(readers, n.reader("rolled-back"))
	if got := n.injectedBy("rolled-back"); got != old {
		t.Errorf("after the rollback version %q injects, want %q", got, old)
	}
	// The older controller grants, to new pods and to those that the newer webhook injected.
	n.runAs("older", "older", annotations("audience", audienceDefault))
	must(t, w.client.RbacV1().Roles(n.name).Delete(t.Context(), api.GrantPrefix+"newer", metav1.DeleteOptions{}), "deleting a grant")
	n.granted("newer", "db")
	n.refresh("newer")

	w.install(t, present, previousValues()...)
	w.settled(t)
	readers = append(readers, n.reader("again"))
	pods.stop()
	for _, r := range readers {
		r.end()
	}
}

// runAs starts a pod as a new ServiceAccount, which has no grant yet.
func (n *testNamespace) runAs(account, pod string, annotations map[string]string) {
	n.t.Helper()
	n.account(account)
	spec := podSpec()
	spec.ServiceAccountName = account
	n.create(pod, annotations, spec)
	n.ready(pod)
}

// injectedBy is the version of the webhook that a pod met.
func (n *testNamespace) injectedBy(name string) string {
	n.t.Helper()
	pod, err := n.client.CoreV1().Pods(n.name).Get(n.t.Context(), name, metav1.GetOptions{})
	must(n.t, err, "reading pod %q", name)
	var status struct{ Version string }
	must(n.t, json.Unmarshal([]byte(pod.Annotations[api.AnnotationStatus]), &status), "decoding annotation %s", api.AnnotationStatus)
	return status.Version
}

// helm runs helm on the installation, and returns what it says.
func (w *world) helm(t *testing.T, arguments ...string) string {
	t.Helper()
	out, err := w.cluster.Helm(t.Context(), append(arguments, "--namespace", cluster.Namespace)...)
	must(t, err, "helm %s", arguments[0])
	return out
}

// Grants are not a part of a release, and stay whatever becomes of it. So does their guard: when a revision has none, by an upgrade
// or by a rollback to it, as one with guard.static=true, which says that API servers have it on their disks. These have not.
func (w *world) guardOutlivesReleases(t *testing.T) {
	n := w.newNamespace(t, allowedPrefix, nil)
	n.worksFor("pod")
	revision := func() string {
		t.Helper()
		var releases []struct{ Revision string }
		must(t, json.Unmarshal([]byte(w.helm(t, "list", "--output", "json")), &releases), "decoding the list of releases")
		return releases[0].Revision
	}
	guarded := revision()
	chart := w.root(t) + "/charts/podtoken"
	w.helm(t, "upgrade", cluster.Release, chart, "--reuse-values", "--set", "guard.static=true")
	unguarded := revision()
	w.guarded(t, "an upgrade to a revision without guard")
	w.helm(t, "rollback", cluster.Release, guarded)
	w.guarded(t, "the way back")
	w.helm(t, "rollback", cluster.Release, unguarded)
	w.guarded(t, "a rollback to a revision without guard")
	w.helm(t, "rollback", cluster.Release, guarded, "--wait", "--timeout", "3m")
	w.settled(t)
	n.refresh("pod")
}

// guarded complains when there is a grant without the policies that limit it.
func (w *world) guarded(t *testing.T, after string) {
	t.Helper()
	admission := w.client.AdmissionregistrationV1()
	for _, policy := range []string{guardPolicy, grantsPolicy} {
		if _, err := admission.ValidatingAdmissionPolicies().Get(t.Context(), policy, metav1.GetOptions{}); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
		if _, err := admission.ValidatingAdmissionPolicyBindings().Get(t.Context(), policy, metav1.GetOptions{}); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
	}
	grants, err := w.client.RbacV1().Roles("").List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelGrant})
	if err != nil || len(grants.Items) == 0 {
		t.Errorf("after %s: %d grants (%v), so that there is nothing to guard", after, len(grants.Items), err)
	}
}

// installationPods are the pods of webhook and controller.
func (w *world) installationPods(t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := w.client.CoreV1().Pods(releaseNamespace).List(t.Context(), metav1.ListOptions{})
	must(t, err, "listing the installation's pods")
	return pods.Items
}
