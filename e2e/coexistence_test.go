package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// Another injector puts its native sidecar first, as meshes do, before us or after us. We are first all the same, and its
// container has the tokens, too.
func TestAnotherInjectorPutsItsContainerFirst(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	for name, prefix := range map[string]string{
		"asked before us": "a-",
		"asked after us":  "z-",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t, nil)
			mesh := container("mesh", probePath, "sleep")
			mesh.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
			var asked atomic.Int64
			n.mutateAs(prefix+n.name, admissionregistrationv1.RuleWithOperations{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}, func(_ context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
				asked.Add(1)
				var pod corev1.Pod
				if json.Unmarshal(request.Object.Raw, &pod) != nil {
					return nil
				}
				patch := []map[string]any{{"op": "add", "path": "/spec/initContainers/0", "value": mesh}}
				if pod.Spec.InitContainers == nil {
					patch = []map[string]any{{"op": "add", "path": "/spec/initContainers", "value": []corev1.Container{mesh}}}
				}
				encoded, err := json.Marshal(patch)
				if err != nil {
					return nil
				}
				return &admissionv1.AdmissionResponse{Allowed: true, PatchType: ptr(admissionv1.PatchTypeJSONPatch), Patch: encoded}
			})
			// The API server hears of it a moment later.
			eventually(t, pollShort, "the other injector is asked", func(ctx context.Context) (bool, error) {
				_, err := n.client.CoreV1().Pods(n.name).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, Spec: podSpec()},
					metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				return asked.Load() > 0, err
			})
			pod := n.create("pod", annotations("audience", audienceDefault), podSpec())
			var order []string
			for _, c := range pod.Spec.InitContainers {
				order = append(order, c.Name)
			}
			if !slices.Equal(order, []string{api.ContainerName, "mesh"}) {
				t.Fatalf("the init containers are %q, want ours first", order)
			}
			n.ready("pod")
			for _, c := range []string{"mesh", "app"} {
				assertReview(t, n.token("pod", c, tokenPath), audienceDefault, pod)
			}
		})
	}
}
