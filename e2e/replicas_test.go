package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/pkg/api"
)

// These tests disturb the installation, so they do not run beside others.

// Every two seconds a replica of the webhook is evicted, as often as the PodDisruptionBudget lets anybody, while 500 pods are
// created: none fails, none is left without sidecar.
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

// A configuration that nobody can read is not taken into use: the old one serves on, the metric and the log say why, also when
// somebody has a replica replaced, which then does not become ready.
func TestBadConfigurationIsNotTakenIntoUse(t *testing.T) {
	n := newNamespace(t, nil)
	before := servingReplicas(t)
	t.Cleanup(func() {
		must(t, testCluster.InstallChart(context.Background(), chartValues()...), "putting the configuration right")
		lookAtFiles(t)
	})
	_, err := client.CoreV1().ConfigMaps(releaseNamespace).Patch(t.Context(), webhookDeployment, types.MergePatchType,
		[]byte(`{"data":{"config.yaml":"sidecar: [this is no configuration]\n"}}`), metav1.PatchOptions{})
	must(t, err, "breaking the configuration")
	lookAtFiles(t)
	for _, pod := range before {
		eventually(t, 3*time.Minute, pod.Name+" has refused the configuration", func(ctx context.Context) (bool, error) {
			metrics, err := webhookMetrics(ctx, pod.Name)
			return strings.Contains(metrics, `podtoken_config_last_reload_successful 0`), err
		})
	}
	n.create("pod", annotations("audience", audienceDefault), podSpec())
	n.ready("pod")

	// A replica that starts now has nothing to go by. It does not become ready, and takes no requests from the one that is.
	must(t, client.CoreV1().Pods(releaseNamespace).Delete(t.Context(), before[0].Name, metav1.DeleteOptions{}), "deleting a replica")
	eventually(t, 2*time.Minute, "the new replica says that it has no configuration", func(context.Context) (bool, error) {
		events, err := testCluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "get", "events", "--field-selector=reason=Unhealthy", "-o", "custom-columns=M:.message", "--no-headers")
		return strings.Contains(events, "config"), err
	})
	for i := range 20 {
		if _, err := n.tryCreate(fmt.Sprint("more-", i), annotations("audience", audienceDefault), gated(serviceAccount)); err != nil {
			t.Errorf("a pod is refused although one replica serves: %v", err)
		}
	}
}
