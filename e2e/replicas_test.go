package e2e

import (
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// Every two seconds a replica of the webhook is evicted, as often as the PodDisruptionBudget lets anybody, while 500 pods are
// created: none fails, none is left without sidecar. It disturbs the installation, so it does not run beside others.
func TestReplicasComeAndGo(t *testing.T) {
	const atLeast, every = 500, 2 * time.Second
	n := newNamespace(t, nil)
	pods := n.stream(atLeast)
	created := make(chan struct{})
	evicted := 0
	var disturbance sync.WaitGroup
	disturbance.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-created:
				return
			case <-tick.C:
			}
			for _, replica := range servingReplicas(t) {
				if err := client.PolicyV1().Evictions(releaseNamespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: replica.ObjectMeta}); err == nil {
					evicted++
				}
				break
			}
		}
	})
	begun := time.Now()
	pods.stop()
	close(created)
	disturbance.Wait()
	t.Logf("in %s %d replicas were evicted", time.Since(begun).Round(time.Second), evicted)
	if evicted < 3 {
		t.Errorf("only %d replicas were evicted", evicted)
	}
	_, err := testCluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "rollout", "status", "deployment/"+webhookDeployment, "--timeout=3m")
	must(t, err, "waiting for the webhook")
}

// servingReplicas are the webhook's pods that nobody has told to end.
func servingReplicas(t *testing.T) []corev1.Pod {
	t.Helper()
	return slices.DeleteFunc(webhookPods(t), func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}
