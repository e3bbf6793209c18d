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

// A pod whose tokens cannot be had says why where people look: after a minute the gate gives up, and `kubectl describe
// pod` shows the reason as the sidecar's last state.
func TestMissingGrantIsExplained(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.account("nobody")
	n.block("nobody")
	spec := gatedSpec()
	spec.ServiceAccountName = "nobody"
	n.create("pod", annotations("audience.vault", "vault"), spec)
	pod := n.until("pod", "has given up waiting for its token once", func(p *corev1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return len(s) > 0 && s[0].LastTerminationState.Terminated != nil
	})
	last := pod.Status.InitContainerStatuses[0].LastTerminationState.Terminated
	if last.ExitCode != 1 || !strings.Contains(last.Message, `token "vault" was never written`) || !strings.Contains(last.Message, "Forbidden") {
		t.Errorf("the sidecar's last state is exit code %d, message %q; want 1 and the API server's refusal", last.ExitCode, last.Message)
	}
	out, err := testCluster.Kubectl(t.Context(), nil, "-n", n.name, "describe", "pod", "pod")
	must(t, err, "describing the pod")
	if !strings.Contains(out, `cannot create resource "serviceaccounts/token"`) {
		t.Errorf("kubectl describe pod does not show the reason:\n%s", out)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil {
			t.Errorf("container %q has started without its token", c.Name)
		}
	}
	// The grant arrives late, and the pod recovers by itself.
	n.unblock("nobody")
	n.ready("pod")
}

// Tokens never appear in logs, events, metrics, arguments or environment: what every part said about a pod with tokens
// holds nothing that begins like a JWT.
func TestNothingShowsAToken(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience", audienceDefault), podSpec())
	n.ready("pod")
	token := n.token("pod", "app", tokenPath)
	said := map[string]string{}
	for name, args := range map[string][]string{
		"the pod":              {"-n", n.name, "get", "pod", "pod", "-o", "yaml"},
		"the events":           {"-n", n.name, "get", "events", "-o", "yaml"},
		"the webhook's log":    {"-n", releaseNamespace, "logs", "-l", "app.kubernetes.io/component=webhook", "--tail=-1"},
		"the controller's log": {"-n", releaseNamespace, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=-1"},
		"the grant":            {"-n", n.name, "get", "roles,rolebindings", "-o", "yaml"},
		"the webhook's state":  {"-n", releaseNamespace, "get", "pods,configmaps", "-o", "yaml"},
	} {
		out, err := testCluster.Kubectl(t.Context(), nil, args...)
		must(t, err, "reading %s", name)
		said[name] = out
	}
	metrics, err := webhookMetrics(t.Context(), webhookPods(t)[0].Name)
	must(t, err, "reading the webhook's metrics")
	said["the webhook's metrics"] = metrics
	for _, command := range [][]string{{api.CommandCheck}, {api.CommandRefresh}, {api.CommandWait}} {
		out, err := n.exec("pod", api.ContainerName, append([]string{api.SidecarBinary}, command...)...)
		must(t, err, "running %q", command)
		said["the sidecar's "+command[0]] = out
	}
	said["the sidecar's log"] = n.logs("pod", api.ContainerName)
	status, err := n.exec("pod", "app", probePath, "cat", api.DefaultMountPath+"/"+api.StatusFile)
	must(t, err, "reading the status file")
	said["the status file"] = status
	environment, err := n.exec("pod", "app", probePath, "env")
	must(t, err, "reading the environment")
	said["the application's environment"] = environment

	signature := token[strings.LastIndex(token, ".")+1:]
	for what, text := range said {
		if strings.Contains(text, "eyJ") || strings.Contains(text, signature) {
			t.Errorf("%s contains a token", what)
		}
	}
	if len(said["the webhook's log"]) == 0 || !strings.Contains(metrics, "podtoken_admission_reviews_total") {
		t.Error("there was nothing to look at")
	}
}

// A change of the chart's values reaches the running webhook without a restart.
func TestConfigurationIsReloaded(t *testing.T) {
	n := newNamespace(t, nil)
	before := webhookPods(t)
	install := func(maxExpiration string) {
		must(t, testCluster.InstallChart(context.Background(), chartValues("--set", "tokens.maxExpiration="+maxExpiration)...), "upgrading the chart")
	}
	install("2h")
	t.Cleanup(func() { install("24h") })
	lookAtFiles(t)
	for _, pod := range before {
		eventually(t, 3*time.Minute, pod.Name+" has reloaded its configuration", func(ctx context.Context) (bool, error) {
			metrics, err := webhookMetrics(ctx, pod.Name)
			return strings.Contains(metrics, `podtoken_config_reloads_total{result="success"} 2`), err
		})
	}
	if err := n.tryDryRun(annotations("audience", audienceDefault, "expiration", "3h")); err == nil || !strings.Contains(err.Error(), "2h") {
		t.Errorf("a lifetime above the new maximum of 2h: %v", err)
	}
	after := webhookPods(t)
	for i := range after {
		if len(after) != len(before) || after[i].UID != before[i].UID {
			t.Fatal("the webhook's pods were replaced; the configuration should be taken into use without that")
		}
	}
}

// webhookMetrics reads /metrics of one replica.
func webhookMetrics(ctx context.Context, pod string) (string, error) {
	return shared.webhookMetrics(ctx, pod)
}

func (w *world) webhookMetrics(ctx context.Context, pod string) (string, error) {
	data, err := w.client.CoreV1().Pods(releaseNamespace).ProxyGet("http", pod, "8080", "/metrics", nil).DoRaw(ctx)
	return string(data), err
}

// tryDryRun creates a pod without storing it.
func (n *testNamespace) tryDryRun(annotations map[string]string) error {
	_, err := n.client.CoreV1().Pods(n.name).Create(n.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "dry-run", Annotations: annotations}, Spec: podSpec(),
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}
