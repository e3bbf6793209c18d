package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// leaseIsRenewedWithin is how long the leading controller does surely without an API server: it gives up after ten seconds, and tries
// every other.
const leaseIsRenewedWithin = 8 * time.Second

// The API server is stopped and started again while pods are created. What fails meanwhile is the API server's alone; from the moment
// at which it is ready no creation fails, new ServiceAccounts get their grants, and neither webhook nor controller was started again.
func (w *world) apiServerRestarted(t *testing.T) {
	n := w.newNamespace(t, allowedPrefix, nil)
	n.worksFor("before")
	w.settled(t)
	before := w.installationPods(t)
	pods := n.stream(0)
	created := func(more int64, when string) {
		t.Helper()
		want := pods.created.Load() + more
		eventually(t, time.Minute, "pods are created "+when, func(context.Context) (bool, error) { return pods.created.Load() >= want, nil })
	}
	created(10, "before")
	pods.away.Store(true)
	start := time.Now()
	must(t, w.cluster.StopComponent(cluster.APIServer, 0), "stopping the API server")
	eventually(t, time.Minute, "creations fail", func(context.Context) (bool, error) { return pods.failedAway.Load() > 0, nil })
	must(t, w.cluster.StartComponent(cluster.APIServer), "starting the API server")
	must(t, w.cluster.WaitForAPIServer(t.Context()), "waiting for the API server")
	away := time.Since(start)
	t.Logf("the API server was away for %s, and %d creations failed", away.Round(100*time.Millisecond), pods.failedAway.Load())
	pods.away.Store(false)

	back := time.Now()
	n.runAs("later", "later", annotations("audience", audienceDefault))
	t.Logf("a pod of a new ServiceAccount was ready after %s", time.Since(back).Round(100*time.Millisecond))
	n.refresh("before")
	created(40, "afterwards")
	pods.stop()
	if away > leaseIsRenewedWithin { // on a machine that is very busy
		before = slices.DeleteFunc(before, func(p corev1.Pod) bool { return p.Labels["app.kubernetes.io/component"] == "controller" })
	}
	w.asBefore(t, before)
}
