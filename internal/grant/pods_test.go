package grant

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

func TestStripPod(t *testing.T) {
	created := metav1.NewTime(epoch)
	full := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "cart-1", UID: "u", ResourceVersion: "7", CreationTimestamp: created,
			Labels: map[string]string{"podtoken.dev/injected": "true"}, Annotations: map[string]string{"podtoken.dev/audience": "edited"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "cart", NodeName: "node",
			InitContainers: []corev1.Container{
				{Name: "other", Args: []string{"--token={}"}},
				{Name: "podtoken", Image: "sidecar", Args: []string{`--token={"name":"a","audiences":["x"],"expirationSeconds":600,"path":"p"}`, "--notify=x"}},
			},
			Containers: []corev1.Container{{Name: "app"}, {Name: "podtoken", Args: []string{"--token=no"}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1", UID: "u", ResourceVersion: "7", CreationTimestamp: created},
		Spec:       corev1.PodSpec{ServiceAccountName: "cart"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	got, err := stripPod(full)
	if err != nil {
		t.Fatal(err)
	}
	d := declared.get(got.(*corev1.Pod))
	if d == nil {
		t.Fatal("no declaration")
	}
	expect(t, "tokens", []api.TokenSpec{{Name: "a", Audiences: []string{"x"}, ExpirationSeconds: 600}}, d.tokens)
	want.Spec.InitContainers = []corev1.Container{{Name: "podtoken", Args: []string{d.key}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := stripPod(got)
	if err != nil {
		t.Fatal(err)
	}
	if again != got {
		t.Error("a stripped pod is stripped again")
	}
	full.Status.Phase = corev1.PodSucceeded
	ended, err := stripPod(full)
	if err != nil {
		t.Fatal(err)
	}
	if declared.get(ended.(*corev1.Pod)) != nil {
		t.Error("a pod that has ended declares something")
	}
}

func TestCut(t *testing.T) {
	for text, want := range map[string]string{"short": "short", "exactly 10": "exactly 10", "eleven char": "eleven ...", "sevenää more": "sevenä..."} {
		if got := cut(text, 10); got != want {
			t.Errorf("cut(%q) = %q, want %q", text, got, want)
		}
	}
}
