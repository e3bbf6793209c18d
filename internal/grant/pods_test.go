package grant

import (
	"runtime"
	"strings"
	"testing"
	"time"

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
				{Name: "podtoken", Image: "sidecar", Args: []string{`--token={"name":"a"}`, "--notify=x", `--token={"name":"b"}`}},
			},
			Containers: []corev1.Container{{Name: "app"}, {Name: "podtoken", Args: []string{"--token=no"}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1", UID: "u", ResourceVersion: "7", CreationTimestamp: created},
		Spec: corev1.PodSpec{
			ServiceAccountName: "cart",
			InitContainers:     []corev1.Container{{Name: "podtoken", Args: []string{`--token={"name":"a"}`, `--token={"name":"b"}`}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	got, err := stripPod(full)
	if err != nil {
		t.Fatal(err)
	}
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
}

// All pods of a Deployment have the same sidecar in memory, which goes when the last of them goes.
func TestSidecarsAreShared(t *testing.T) {
	var s shared
	one, other := s.of([]string{"a", "b"}), s.of([]string{"a", "b"})
	if &one[0] != &other[0] {
		t.Error("two equal sidecars")
	}
	if third := s.of([]string{"a b"}); &third[0] == &one[0] {
		t.Error("one sidecar for two declarations")
	}
	runtime.KeepAlive(one)
	runtime.KeepAlive(other)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		runtime.GC()
		s.mu.Lock()
		left := len(s.all)
		s.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d sidecars are kept without a pod", left)
		}
	}
}

func TestDeclarations(t *testing.T) {
	big := tokenPrefix + strings.Repeat("x", maxTokenBytes)
	tests := map[string]struct {
		args    []string
		want    []api.TokenSpec
		wantErr string
	}{
		"all tokens, in order": {
			args: []string{
				`--token={"name":"a","audiences":["x","y"],"expirationSeconds":600,"path":"p","mode":"0400","refreshAtPercent":80}`,
				`--token={"name":"b","audiences":["\u0024(X)"],"expirationSeconds":700}`,
			},
			want: []api.TokenSpec{
				{Name: "a", Audiences: []string{"x", "y"}, ExpirationSeconds: 600, Path: "p", Mode: "0400", RefreshAtPercent: 80},
				{Name: "b", Audiences: []string{"$(X)"}, ExpirationSeconds: 700},
			},
		},
		"no token":          {args: []string{"--notify=x"}, wantErr: "it has no argument --token"},
		"not JSON":          {args: []string{"--token={"}, wantErr: "argument --token is not the JSON that the webhook writes: unexpected end of JSON input"},
		"of another type":   {args: []string{`--token={"expirationSeconds":"1h"}`}, wantErr: "argument --token is not the JSON that the webhook writes: json: cannot unmarshal string into Go struct field TokenSpec.expirationSeconds of type int64"},
		"more than is kept": {args: []string{big}, wantErr: "argument --token is empty, or all of them are longer than 262144 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := declarations(tokenArguments(test.args))
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(test.wantErr, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("tokens (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCut(t *testing.T) {
	for text, want := range map[string]string{"short": "short", "exactly 10": "exactly 10", "eleven char": "eleven ...", "sevenää more": "sevenä..."} {
		if got := cut(text, 10); got != want {
			t.Errorf("cut(%q) = %q, want %q", text, got, want)
		}
	}
}
