package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// Both nodes of a cluster are drained with kubectl, one after the other, while annotated pods are created. At first the
// replicas are on both nodes. Then they are all on the node that is drained, and only the PodDisruptionBudget keeps one of the
// webhook's working. In a cluster of its own, for no other test needs a second node.
func TestDrain(t *testing.T) {
	w := emptyWorld(t, "drain", func(o *cluster.Options) { o.Nodes = 2 })
	must(t, w.cluster.InstallChart(t.Context(), chartValues()...), "installing podtoken")
	d := &drain{testNamespace: w.newNamespace(t, allowedPrefix, nil)}
	for _, component := range []string{"webhook", "controller"} {
		if got := d.nodesOf(releaseNamespace, "app.kubernetes.io/component="+component); !slices.Equal(got, []string{"node1", "node2"}) {
			t.Fatalf("the pods of the %s are on %q, want one on each node", component, got)
		}
	}
	leader, err := d.leader(t.Context())
	must(t, err, "finding the leader")
	first, second := leader.Spec.NodeName, "node1"
	if first == second {
		second = "node2"
	}
	d.deploy(first)

	d.drained(first, second)
	d.runsOn(second)
	_, err = w.cluster.Kubectl(t.Context(), nil, "uncordon", first)
	must(t, err, "uncordoning %s", first)
	if got := d.nodesOf(releaseNamespace, "app.kubernetes.io/component=webhook"); !slices.Equal(got, []string{second, second}) {
		t.Fatalf("the pods of the webhook are on %q, want both on %s", got, second)
	}
	out := d.drained(second, first)
	if attempts := strings.Count(out, "evicting pod "+releaseNamespace+"/"+webhookDeployment+"-"); attempts <= 2 {
		t.Errorf("kubectl tried %d times to evict the two pods of the webhook; want more, because the second one has to wait", attempts)
	}
	d.runsOn(first)
}

// drain is a namespace with a Deployment, whose cluster has two nodes.
type drain struct{ *testNamespace }

const appReplicas = 3

// deploy makes a Deployment whose pods want to be on one node, and are there.
func (d *drain) deploy(node string) {
	d.t.Helper()
	spec := podSpec()
	spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
		Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}},
	}}}}
	_, err := d.client.AppsV1().Deployments(d.name).Create(d.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(appReplicas)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			Template: template(annotations("audience", audienceDefault), spec)},
	}, metav1.CreateOptions{})
	must(d.t, err, "creating the Deployment")
	d.runsOn(node)
}

// runsOn waits until the Deployment's pods run on that node, and checks their tokens.
func (d *drain) runsOn(node string) {
	d.t.Helper()
	eventually(d.t, 3*time.Minute, "the Deployment is available", func(ctx context.Context) (bool, error) {
		deployment, err := d.client.AppsV1().Deployments(d.name).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && deployment.Status.AvailableReplicas == appReplicas, err
	})
	pods := d.pods(d.name, "app=x")
	if len(pods) != appReplicas {
		d.t.Fatalf("the Deployment has %d pods, want %d", len(pods), appReplicas)
	}
	for _, pod := range pods {
		if pod.Spec.NodeName != node {
			d.t.Errorf("pod %s is on %s, want it on %s", pod.Name, pod.Spec.NodeName, node)
		}
		d.assertReview(d.t, d.token(pod.Name, "app", tokenPath), audienceDefault, &pod)
	}
}

// drained drains a node, where the leader is, and says what that did to podtoken and to pods that come meanwhile on the other
// node. It returns what kubectl said.
func (d *drain) drained(node, other string) string {
	d.t.Helper()
	budget, err := d.client.PolicyV1().PodDisruptionBudgets(releaseNamespace).Get(d.t.Context(), webhookDeployment, metav1.GetOptions{})
	must(d.t, err, "reading the PodDisruptionBudget")
	before, err := d.leader(d.t.Context())
	must(d.t, err, "finding the leader")
	if before.Spec.NodeName != node {
		d.t.Fatalf("the leader is on %s, want it on %s", before.Spec.NodeName, node)
	}
	fewest := d.watchReplicas()
	created := d.stream(0)
	arriving := d.arrive(other)

	// The tokens are in an emptyDir, which kubectl takes for data.
	_, err = d.kubectlDrain(node)
	if err == nil || !strings.Contains(err.Error(), "--delete-emptydir-data") {
		d.t.Errorf("draining without --delete-emptydir-data: %v", err)
	}
	start := time.Now()
	out, err := d.kubectlDrain(node, "--delete-emptydir-data")
	must(d.t, err, "draining %s", node)
	d.t.Logf("%s was drained in %s:\n%s", node, time.Since(start).Round(100*time.Millisecond), out)
	left, err := d.client.CoreV1().Pods("").List(d.t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	must(d.t, err, "listing the pods of %s", node)
	for _, pod := range left.Items {
		d.t.Errorf("pod %s/%s is still on %s", pod.Namespace, pod.Name, node)
	}

	eventually(d.t, time.Minute, "the leader is on "+other, func(ctx context.Context) (bool, error) {
		leader, err := d.leader(ctx)
		return err == nil && leader.Spec.NodeName == other, err
	})
	for _, name := range []string{webhookDeployment, controllerName} {
		_, err := d.cluster.Kubectl(d.t.Context(), nil, "-n", releaseNamespace, "rollout", "status", "deployment/"+name, "--timeout=2m")
		must(d.t, err, "waiting for %s", name)
	}
	arriving()
	created.stop()
	must(d.t, d.client.CoreV1().Pods(d.name).DeleteCollection(d.t.Context(), metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))},
		metav1.ListOptions{LabelSelector: "app!=x"}), "deleting the pods that were created meanwhile")
	got, want := fewest(), int(budget.Status.DesiredHealthy)
	d.t.Logf("the webhook never had fewer than %d replicas ready; the PodDisruptionBudget wants %d", got, want)
	if got < want || want < 1 {
		d.t.Errorf("the webhook had only %d replicas ready, the PodDisruptionBudget wants %d, and the test at least 1", got, want)
	}
	return out
}

func (d *drain) kubectlDrain(node string, arguments ...string) (string, error) {
	return d.cluster.Kubectl(d.t.Context(), nil, append([]string{"drain", node, "--timeout=4m"}, arguments...)...)
}

// arrive creates a pod on that node every two seconds, each with a ServiceAccount of its own, which needs a grant. What it
// returns ends that, and waits until each pod has its token.
func (d *drain) arrive(node string) (stop func()) {
	var (
		names    []string
		failures []error
		creator  sync.WaitGroup
	)
	done := make(chan struct{})
	creator.Go(func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for i := 0; ; i++ {
			name := fmt.Sprintf("on-%s-%d", node, i)
			spec := podSpec()
			spec.ServiceAccountName, spec.NodeSelector = name, map[string]string{corev1.LabelHostname: node}
			_, err := d.client.CoreV1().ServiceAccounts(d.name).Create(d.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			if err == nil {
				_, err = d.tryCreate(name, annotations("audience", audienceDefault), spec)
			}
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: pod %s: %w", time.Now().Format(time.TimeOnly), name, err))
			} else {
				names = append(names, name)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	end := sync.OnceFunc(func() { close(done); creator.Wait() })
	d.t.Cleanup(end)
	return func() {
		d.t.Helper()
		end()
		if err := errors.Join(failures...); err != nil {
			d.t.Error(err)
		}
		var slowest time.Duration
		for _, name := range names {
			pod := d.ready(name)
			d.assertReview(d.t, d.token(name, "app", tokenPath), audienceDefault, pod)
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodReady {
					slowest = max(slowest, c.LastTransitionTime.Sub(pod.CreationTimestamp.Time))
				}
			}
		}
		d.t.Logf("%d pods with ServiceAccounts of their own came to %s; the slowest was ready after %s", len(names), node, slowest)
	}
}

// watchReplicas counts the webhook's replicas that are ready, as the PodDisruptionBudget does. What it returns ends that, and
// returns the fewest there were.
func (d *drain) watchReplicas() (fewest func() int) {
	d.t.Helper()
	selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"}
	list, err := d.client.CoreV1().Pods(releaseNamespace).List(d.t.Context(), selector)
	must(d.t, err, "listing the webhook's pods")
	ready := map[string]bool{}
	count := func(pod *corev1.Pod) int {
		ready[pod.Name] = pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		sum := 0
		for _, one := range ready {
			if one {
				sum++
			}
		}
		return sum
	}
	least := 0
	for _, pod := range list.Items {
		least = count(&pod)
	}
	selector.ResourceVersion = list.ResourceVersion
	events, err := d.client.CoreV1().Pods(releaseNamespace).Watch(d.t.Context(), selector)
	must(d.t, err, "watching the webhook's pods")
	var watcher sync.WaitGroup
	stopped := make(chan struct{})
	watcher.Go(func() {
		for event := range events.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			switch {
			case !ok: // an error, also when the watch is stopped; the channel is closed next
			case event.Type == watch.Deleted:
				delete(ready, pod.Name)
			default:
				least = min(least, count(pod))
			}
		}
		select {
		case <-stopped:
		default:
			d.t.Error("the watch of the webhook's pods has ended early, so nobody knows how many were ready")
		}
	})
	end := sync.OnceFunc(func() { close(stopped); events.Stop(); watcher.Wait() })
	d.t.Cleanup(end)
	return func() int { end(); return least }
}

// leader is the controller's pod that holds the Lease.
func (d *drain) leader(ctx context.Context) (*corev1.Pod, error) {
	lease, err := d.client.CoordinationV1().Leases(releaseNamespace).Get(ctx, controllerName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return nil, errors.New("nobody leads")
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return d.client.CoreV1().Pods(releaseNamespace).Get(ctx, name, metav1.GetOptions{})
}

func (d *drain) pods(namespace, selector string) []corev1.Pod {
	d.t.Helper()
	list, err := d.client.CoreV1().Pods(namespace).List(d.t.Context(), metav1.ListOptions{LabelSelector: selector})
	must(d.t, err, "listing pods")
	return list.Items
}

// nodesOf are the nodes of the pods, sorted.
func (d *drain) nodesOf(namespace, selector string) []string {
	d.t.Helper()
	var nodes []string
	for _, pod := range d.pods(namespace, selector) {
		nodes = append(nodes, pod.Spec.NodeName)
	}
	slices.Sort(nodes)
	return nodes
}
