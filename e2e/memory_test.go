package e2e

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Webhook and controller know their containers' limits, and collect garbage rather than be killed at them.
func TestMemoryLimitIsKnown(t *testing.T) {
	t.Parallel()
	for _, component := range []string{"webhook", "controller"} {
		list, err := client.CoreV1().Pods(releaseNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
		must(t, err, "listing the pods of the %s", component)
		if len(list.Items) == 0 {
			t.Fatalf("there is no pod of the %s", component)
		}
		limit := list.Items[0].Spec.Containers[0].Resources.Limits.Memory().Value()
		metrics, err := webhookMetrics(t.Context(), list.Items[0].Name)
		must(t, err, "reading metrics of the %s", component)
		var got float64
		for line := range strings.Lines(metrics) {
			_, _ = fmt.Sscanf(line, "go_gc_gomemlimit_bytes %g", &got)
		}
		if want := 0.8 * float64(limit); limit == 0 || got > want || got < want-1 {
			t.Errorf("the %s keeps below %.0f bytes of its %d, want %.0f", component, got, limit, want)
		}
	}
}
