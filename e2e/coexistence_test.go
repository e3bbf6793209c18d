package e2e

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

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
			n.mutatePods(prefix+n.name, func(pod *corev1.Pod) []map[string]any {
				if pod.Spec.InitContainers == nil {
					return []map[string]any{{"op": "add", "path": "/spec/initContainers", "value": []corev1.Container{mesh}}}
				}
				return []map[string]any{{"op": "add", "path": "/spec/initContainers/0", "value": mesh}}
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
