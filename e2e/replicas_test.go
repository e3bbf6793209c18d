package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// Every two seconds a replica of the webhook is evicted, as often as the PodDisruptionBudget lets anybody, while 500 pods are
// created: none fails, none is left without sidecar. It disturbs the installation, so it does not run beside others.
func TestReplicasComeAndGo(t *testing.T) {
	const pods, every = 500, 2 * time.Second
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "podtoken.test/never"}} // created, never run
	ctx, stop := context.WithCancel(t.Context())
	var disturbance sync.WaitGroup
	evicted := 0
	disturbance.Go(func() {
		for tick := time.NewTicker(every); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			for _, replica := range servingReplicas(t) {
				if err := client.PolicyV1().Evictions(releaseNamespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: replica.ObjectMeta}); err == nil {
					evicted++
				}
				break
			}
		}
	})
	end := sync.OnceFunc(func() { stop(); disturbance.Wait() })
	defer end()

	begun := time.Now()
	var (
		created  atomic.Int64
		mu       sync.Mutex
		failures []error
		creators sync.WaitGroup
	)
	for range 2 {
		creators.Go(func() {
			for i := created.Add(1); i <= pods; i = created.Add(1) {
				pod, err := n.tryCreate(fmt.Sprint("pod-", i), annotations("audience", audienceDefault), spec)
				if err == nil && (len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != api.ContainerName) {
					err = errors.New("created without a sidecar")
				}
				if err != nil {
					mu.Lock()
					failures = append(failures, fmt.Errorf("pod %d: %w", i, err))
					mu.Unlock()
				}
				time.Sleep(100 * time.Millisecond) // long enough for a dozen of deletions
			}
		})
	}
	creators.Wait()
	end()
	t.Logf("%d pods in %s, while %d replicas were evicted", pods, time.Since(begun).Round(time.Second), evicted)
	if len(failures) > 0 {
		t.Errorf("%d pods were not created, the first: %v", len(failures), failures[0])
	}
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
