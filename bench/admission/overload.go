package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/bench/proc"
	"github.com/podtoken/podtoken/bench/report"
	"github.com/podtoken/podtoken/internal/admission/reviews"
)

// withToken is a pod with the volume of its default token: vault-k8s looks for it.
func withToken(shape reviews.Shape, annotations map[string]string) *corev1.Pod {
	pod := reviews.Pod(shape, annotations)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}})
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "kube-api-access-x", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true})
	}
	return pod
}

// overloadCallers are more than are answered at once.
const overloadCallers = 600

// measureOverload calls with more large pods at once than two cores answer. Every caller keeps its connection: else the
// handshakes would take most of what there is, and hide the webhooks behind them.
func measureOverload(ctx context.Context, all []*contestant, turn time.Duration) (string, error) {
	body, err := reviews.Review("0b5a1c1e-95ad-4d3c-a5f8-6ee5cf9d3a3c", withToken(reviews.Shapes()[reviews.Large], reviews.Annotations()))
	if err != nil {
		return "", err
	}
	table := report.Table{Head: []string{
		fmt.Sprintf("large pods, %d callers at once", overloadCallers), "answered a second", "p50 ms", "p99 ms", "most ms", "refused a second", "p99 ms", "failed", "resident at most, MB",
	}}
	for _, c := range all {
		if c.name == vaultName {
			continue // It would have nothing to do for these reviews.
		}
		turn := 5 * turn
		c.client = newClient(overloadCallers)
		got, err := call(ctx, c, body, true, overloadCallers, turn, true)
		if err != nil {
			return "", fmt.Errorf("%s, overload: %w", c.name, err)
		}
		peak, err := proc.PeakOf(c.process.Process.Pid)
		if err != nil {
			return "", err
		}
		table.Row(c.name, rate(got.answered, turn), milliseconds(got.answerTimes, 50), milliseconds(got.answerTimes, 99), milliseconds(got.answerTimes, 100),
			rate(got.refused, turn), milliseconds(got.refusalTimes, 99), fmt.Sprint(got.failed), megabytes(peak))
	}
	return table.String(), nil
}

func rate(n int64, turn time.Duration) string { return fmt.Sprintf("%.0f", float64(n)/turn.Seconds()) }

func milliseconds(times report.Sample, p float64) string {
	if len(times) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", times.Percentile(p))
}
