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

// A configuration that the chart's schema lets through, and webhook and controller do not: the longest lifetime is shorter than any that
// a pod can have. Whoever runs says so and goes on with the old configuration, as a whole. Whoever starts does not become ready, so
// that a rollout stops with the old replicas in place. A good configuration ends it.
func (w *world) badConfiguration(t *testing.T) {
	const requests, problem = "sidecar.resources.requests.cpu=7m", "5m"
	bad := []string{"--set", "tokens.maxExpiration=" + problem, "--set", requests}
	install := func(more ...string) { t.Helper(); w.install(t, w.root(t), append(previousValues(), more...)...) }
	n := w.newNamespace(t, allowedPrefix, nil)
	install()
	w.settled(t)
	before := w.installationPods(t)

	install(bad...) // No pod is replaced for that, so helm has nothing to wait for.
	w.refused(t, before, problem)
	n.decides("by-the-old", "1m")

	// Both Deployments roll.
	rolling := []string{"--set", `webhook.podAnnotations.podtoken\.test/roll=yes`, "--set", `controller.podAnnotations.podtoken\.test/roll=yes`}
	install(append(append(bad, rolling...), "--wait=hookOnly")...)
	w.doNotStart(t, before, problem)
	n.decides("during-the-rollout", "1m")
	n.runAs("other", "other", annotations("audience", audienceDefault)) // The old controller grants.
	w.asBefore(t, before)

	install("--set", requests)
	w.settled(t)
	w.asBefore(t, before)
	w.lookAtFiles(t)
	for _, pod := range before {
		eventually(t, 3*time.Minute, pod.Name+" says that its files are good", func(ctx context.Context) (bool, error) {
			refused, err := w.refusedFiles(ctx, pod.Name)
			return len(refused) == 0, err
		})
	}
	n.decides("by-the-new", "7m")
}

// refused waits until each of the pods says, by metric and log, that it has refused its new files and why.
func (w *world) refused(t *testing.T, pods []corev1.Pod, problem string) {
	t.Helper()
	w.lookAtFiles(t)
	for _, pod := range pods {
		want := []string{"policy"}
		if pod.Labels["app.kubernetes.io/component"] == "webhook" {
			want = []string{"config", "policy"}
		}
		eventually(t, 3*time.Minute, pod.Name+" refuses its new files", func(ctx context.Context) (bool, error) {
			refused, err := w.refusedFiles(ctx, pod.Name)
			return strings.Join(refused, " ") == strings.Join(want, " "), err
		})
		log, err := w.client.CoreV1().Pods(releaseNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
		must(t, err, "reading the log of %s", pod.Name)
		told := 0
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "Files refused, the last good ones stay in use") && strings.Contains(line, "maxExpiration") && strings.Contains(line, problem) {
				told++
			}
		}
		if told != len(want) {
			t.Errorf("%s tells %d times that it refuses, and why, want %d:\n%s", pod.Name, told, len(want), log)
		}
	}
}

// refusedFiles are the files that a pod says it refuses: what the alert PodtokenReloadFailed looks at.
func (w *world) refusedFiles(ctx context.Context, pod string) (files []string, err error) {
	metrics, err := w.webhookMetrics(ctx, pod)
	for line := range strings.Lines(metrics) {
		if file, ok := strings.CutSuffix(strings.TrimSpace(line), "_last_reload_successful 0"); ok {
			files = append(files, strings.TrimPrefix(file, "podtoken_"))
		}
	}
	return files, err
}

// doNotStart waits until a new pod of each Deployment has exited, with the reason in `kubectl describe pod`, and has never been ready.
func (w *world) doNotStart(t *testing.T, before []corev1.Pod, problem string) {
	t.Helper()
	exited := map[string]string{}
	eventually(t, 2*time.Minute, "a new pod of each Deployment has exited", func(context.Context) (bool, error) {
		for _, pod := range w.installationPods(t) {
			if known(before, pod) || len(pod.Status.ContainerStatuses) == 0 {
				continue
			}
			status := pod.Status.ContainerStatuses[0]
			if status.Ready {
				t.Errorf("%s is ready", pod.Name)
			}
			for _, state := range []corev1.ContainerState{status.State, status.LastTerminationState} {
				if state.Terminated != nil {
					exited[pod.Labels["app.kubernetes.io/component"]] = state.Terminated.Message
				}
			}
		}
		return len(exited) == 2, fmt.Errorf("exited: %q", exited)
	})
	for component, message := range exited {
		if !strings.Contains(message, "maxExpiration") || !strings.Contains(message, problem) {
			t.Errorf("the new %s ended with the message %q, want the reason", component, message)
		}
	}
}

// asBefore says that the pods of before are there, ready, and were never started again.
func (w *world) asBefore(t *testing.T, before []corev1.Pod) {
	t.Helper()
	ready := 0
	for _, pod := range w.installationPods(t) {
		if status := pod.Status.ContainerStatuses; known(before, pod) && pod.DeletionTimestamp == nil && len(status) == 1 && status[0].Ready && status[0].RestartCount == 0 {
			ready++
		}
	}
	if ready != len(before) {
		t.Errorf("%d of %d pods are as before", ready, len(before))
	}
}

func known(pods []corev1.Pod, pod corev1.Pod) bool {
	for i := range pods {
		if pods[i].UID == pod.UID {
			return true
		}
	}
	return false
}

// decides creates a pod, whose sidecar has to request as much CPU as the configuration in use says.
func (n *testNamespace) decides(name, cpu string) {
	n.t.Helper()
	n.create(name, annotations("audience", audienceDefault), gated(serviceAccount))
	pod, err := n.client.CoreV1().Pods(n.name).Get(n.t.Context(), name, metav1.GetOptions{})
	must(n.t, err, "reading pod %q", name)
	sidecar := pod.Spec.InitContainers[0]
	if got := sidecar.Resources.Requests.Cpu(); sidecar.Name != api.ContainerName || got.Cmp(quantity(cpu)) != 0 {
		n.t.Errorf("pod %q got %q with %s of CPU, want %s", name, sidecar.Name, got, cpu)
	}
}
