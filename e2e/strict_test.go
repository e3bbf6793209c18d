package e2e

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// A kubelet that is started again while sidecars wait runs no hook twice. With wait: "strict" the application still waits; with
// "true" it does not, as docs/contract.md says. A strict pod whose token is there starts as any other.
func TestStrictWaitOutlivesTheKubelet(t *testing.T) {
	t.Parallel()
	w := ownWorld(t, "strict")
	n := w.newNamespace(t, allowedPrefix, nil)
	const late, hooked, strict, granted = "late", "hooked", "strict", "granted"
	n.account(late)
	n.block(late)
	spec := gatedSpec()
	spec.ServiceAccountName = late
	n.create(hooked, annotations("audience", audienceDefault), spec)
	n.create(strict, annotations("audience", audienceDefault, "wait", api.WaitStrict), spec)
	n.create(granted, annotations("audience", audienceDefault, "wait", api.WaitStrict), gatedSpec())
	for _, pod := range []string{hooked, strict} {
		// The kubelet, which waits for the hook, does not say that the sidecar runs.
		eventually(t, pollShort, "the sidecar of "+pod+" runs", func(ctx context.Context) (bool, error) {
			events, err := w.client.CoreV1().Events(n.name).List(ctx, metav1.ListOptions{FieldSelector: "reason=Started,involvedObject.name=" + pod})
			return err == nil && len(events.Items) > 0, err
		})
	}
	n.ready(granted)

	must(t, w.cluster.StopComponent(cluster.Kubelet, time.Second), "stopping the kubelet")
	must(t, w.cluster.StartComponent(cluster.Kubelet), "starting the kubelet")
	started := func(p *corev1.Pod) bool { return running(p.Status.ContainerStatuses, "app") }
	n.until(hooked, "runs its application without a token", started)
	// By then the other could have started, too: two probes and the kubelet's look are more than enough.
	for range 10 {
		time.Sleep(time.Second)
		pod, err := w.client.CoreV1().Pods(n.name).Get(t.Context(), strict, metav1.GetOptions{})
		must(t, err, "reading the pod")
		if started(pod) {
			t.Fatal("the application has started before its token exists")
		}
	}
	n.unblock(late)
	pod := n.ready(strict)
	w.assertReview(t, n.token(strict, "app", tokenPath), audienceDefault, pod)
}
