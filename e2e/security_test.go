package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

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

// delivery "projected": the kubelet writes the file, no sidecar runs in the pod, no Role is needed.
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

// beforeInstallation is a pod as the API server would have stored it before podtoken was installed.
var beforeInstallation *corev1.Pod

// plainPod returns what the API server stores of a pod without annotations, less what differs from pod to pod.
func plainPod(ctx context.Context) (*corev1.Pod, error) {
	var pod *corev1.Pod
	// The default ServiceAccount is made a moment after the namespace.
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, pollShort, true, func(ctx context.Context) (bool, error) {
		spec := podSpec()
		spec.ServiceAccountName = "default"
		created, err := client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "plain", Labels: map[string]string{"app": "plain"}, Annotations: map[string]string{"example.com/a": "b"}},
			Spec:       spec,
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		pod = created
		return true, err
	})
	if err != nil {
		return nil, err
	}
	pod.UID, pod.CreationTimestamp, pod.ManagedFields = "", metav1.Time{}, nil
	for i, volume := range pod.Spec.Volumes {
		pod.Spec.Volumes[i].Name = strings.TrimRight(volume.Name, "bcdfghjklmnpqrstvwxz2456789")
	}
	for i, mount := range pod.Spec.Containers[0].VolumeMounts {
		pod.Spec.Containers[0].VolumeMounts[i].Name = strings.TrimRight(mount.Name, "bcdfghjklmnpqrstvwxz2456789")
	}
	return pod, nil
}

// Pods that did not ask are not touched at all: what is stored is what was stored before podtoken was installed.
func TestUnannotatedPodIsUntouched(t *testing.T) {
	t.Parallel()
	after, err := plainPod(t.Context())
	must(t, err, "creating a pod")
	if diff := cmp.Diff(beforeInstallation, after); diff != "" {
		t.Errorf("the pod (-before the installation +after):\n%s", diff)
	}
	if len(after.Spec.Volumes) == 0 {
		t.Error("there was little to compare")
	}
}

// The API server found nothing to say about the policies' expressions.
func TestPoliciesTypeCheck(t *testing.T) {
	t.Parallel()
	policies, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=podtoken"})
	must(t, err, "listing policies")
	if len(policies.Items) != 7 {
		t.Errorf("%d policies, want 7", len(policies.Items))
	}
	for _, p := range policies.Items {
		eventually(t, pollShort, p.Name+" was checked", func(ctx context.Context) (bool, error) {
			checked, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, p.Name, metav1.GetOptions{})
			if err != nil || checked.Status.TypeChecking == nil {
				return false, err
			}
			for _, warning := range checked.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s: %s: %s", p.Name, warning.FieldRef, warning.Warning)
			}
			return true, nil
		})
	}
}
