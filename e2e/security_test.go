package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// "Every pod of ours passes Pod Security restricted", and needs no automounted credential.
func TestRestrictedNamespaceWithoutAutomount(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	spec := podSpec()
	spec.AutomountServiceAccountToken = ptr(false)
	n.create("pod", annotations("audience", audienceDefault), spec)
	pod := n.ready("pod")
	assertReview(t, n.token("pod", "app", tokenPath), audienceDefault, pod)
	for _, m := range pod.Spec.Containers[0].VolumeMounts {
		if m.MountPath == api.APIMountPath {
			t.Errorf("the application got an API credential (volume %q) although it declined one", m.Name)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Name != api.VolumeAPI {
			continue
		}
		if got := *v.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds; got != 600 {
			t.Errorf("the sidecar's own credential lives %d s, want 600", got)
		}
	}
	if out, err := n.exec("pod", "app", probePath, "stat", api.APIMountPath+"/token"); err == nil || !strings.Contains(out, "no such file") {
		t.Errorf("the application finds an API credential: %s", out)
	}
}

func TestHostNetwork(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, map[string]string{"pod-security.kubernetes.io/enforce": "privileged"})
	spec := podSpec()
	spec.HostNetwork = true
	n.create("pod", annotations("audience", audienceDefault), spec)
	pod := n.ready("pod")
	assertReview(t, n.token("pod", "app", tokenPath), audienceDefault, pod)
}

func TestSharedProcessNamespace(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.ShareProcessNamespace = ptr(true)
	n.create("pod", annotations("audience", audienceDefault), spec)
	pod := n.ready("pod")
	assertReview(t, n.token("pod", "app", tokenPath), audienceDefault, pod)
}

// delivery "projected": the kubelet writes the file, nothing of ours runs in the pod, no Role is needed.
func TestProjectedDelivery(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.vault", "vault", "audience.billing", audienceDefault, "delivery", "projected"), podSpec())
	pod := n.ready("pod")
	if len(pod.Spec.InitContainers) != 0 {
		t.Errorf("%d init containers were injected, want none", len(pod.Spec.InitContainers))
	}
	assertReview(t, n.token("pod", "app", api.DefaultMountPath+"/vault"), "vault", pod)
	assertReview(t, n.token("pod", "app", api.DefaultMountPath+"/billing"), audienceDefault, pod)
}

// The API server assigns the quality of service after injection: it must be the class that the user built.
func TestInjectionKeepsTheGuaranteedClass(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	resources := corev1.ResourceList{corev1.ResourceCPU: quantity("50m"), corev1.ResourceMemory: quantity("32Mi")}
	spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: resources, Limits: resources}
	n.create("pod", annotations("audience", audienceDefault), spec)
	pod := n.ready("pod")
	assertReview(t, n.token("pod", "app", tokenPath), audienceDefault, pod)
	if pod.Status.QOSClass != corev1.PodQOSGuaranteed {
		t.Errorf("the pod's class is %s, want Guaranteed", pod.Status.QOSClass)
	}
}

// Pods that did not ask are not touched at all.
func TestUnannotatedPodIsUntouched(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	pod := n.create("pod", nil, podSpec())
	if len(pod.Annotations) != 0 || len(pod.Labels) != 0 || len(pod.Spec.InitContainers) != 0 {
		t.Errorf("the pod was changed: annotations %v, labels %v, init containers %d", pod.Annotations, pod.Labels, len(pod.Spec.InitContainers))
	}
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, "podtoken") {
			t.Errorf("volume %q was added", v.Name)
		}
	}
}
