package e2e

import (
	"context"
	"fmt"
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

// A copy that `kubectl debug --copy-to` makes has the sidecar and not the label by which the controller counts. It runs, and its tokens
// end some time after the last Pod that has the label: explain names the missing label before and after, and its remedy works.
func TestCopyThatIsNotCounted(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("app", annotations("audience.vault", "vault"), podSpec())
	n.ready("app")
	debug := func(name string, flags ...string) *corev1.Pod {
		t.Helper()
		n.kubectl(append(append([]string{"debug", "app", "--copy-to=" + name, "--container=debugger", "--image=" + probeImage,
			"--image-pull-policy=IfNotPresent", "--profile=restricted"}, flags...), "--", probePath, "sleep")...)
		return n.ready(name)
	}
	explain := func(pod string, wantCode int, wants ...string) (stdout string) {
		t.Helper()
		stdout, stderr, code := n.plugin("", "explain", pod)
		for _, want := range wants {
			if !strings.Contains(stdout, want) {
				t.Errorf("explain of %q lacks %q:\n%s", pod, want, stdout)
			}
		}
		if code != wantCode {
			t.Errorf("explain of %q ends with exit code %d, want %d:\n%s%s", pod, code, wantCode, stdout, stderr)
		}
		return stdout
	}
	if kept := debug("kept", "--keep-annotations"); kept.Labels[api.LabelInjected] != "true" {
		t.Errorf("a copy with the annotations has the labels %v", kept.Labels)
	}
	if out := explain("kept", 0); strings.Contains(out, "metadata.") {
		t.Errorf("there is nothing to say about a copy with the annotations:\n%s", out)
	}
	if copied := debug("copy"); len(copied.Labels) > 0 || len(copied.Annotations) > 0 || copied.Spec.InitContainers[0].Name != api.ContainerName {
		t.Fatalf("a copy is not what it was: %v, %v, %v", copied.Labels, copied.Annotations, copied.Spec.InitContainers)
	}
	const missing = `podtoken.dev/injected is missing, want "true": the controller does not count this Pod`
	explain("copy", 1, missing, "(counted now: 2)", "--keep-annotations")

	n.delete("app", "kept")
	eventually(t, 2*time.Minute, "the grant has ended", func(context.Context) (bool, error) { return n.role(serviceAccount) == nil, nil })
	explain("copy", 1, missing, "(counted now: 0)", `Role "podtoken:app" does not exist, so ServiceAccount `+n.name+`/app lacks verb create on serviceaccounts/token, `+
		`lifetime 3600 s, audience "vault": no Pod that has the label declares it`)
	refresh := func() error {
		out, err := n.exec("copy", api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--"+api.FlagTimeout+"=5s")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := refresh(); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("a copy without a grant refreshes its tokens: %v", err)
	}

	n.kubectl("label", "pod", "copy", api.LabelInjected+"=true")
	n.granted(serviceAccount, "vault")
	eventually(t, time.Minute, "the copy refreshes its token", func(context.Context) (bool, error) {
		err := refresh()
		return err == nil, err
	})
	explain("copy", 0, "the webhook was not called for this Pod")
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
