package policies

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestEnforce: a Pod that requests tokens is injected, or it is rejected.
func TestEnforce(t *testing.T) {
	vault := map[string]string{"podtoken.dev/audience": "vault"}
	projected := map[string]string{"podtoken.dev/audience": "vault", "podtoken.dev/delivery": "projected"}
	tests := map[string]struct {
		pod       func(t *testing.T) *corev1.Pod
		namespace string
		want      string // a part of the message; empty for admitted
	}{
		"no annotation": {
			pod: func(*testing.T) *corev1.Pod { return plain(nil, 1) },
		},
		"no annotation, in an excluded namespace": {
			pod: func(*testing.T) *corev1.Pod { return plain(nil, 1) }, namespace: excludedSpace,
		},
		"injected": {
			pod: func(t *testing.T) *corev1.Pod { return injected(t, plain(vault, 1)) },
		},
		"injected, behind init containers of other webhooks": {
			pod: func(t *testing.T) *corev1.Pod {
				pod := injected(t, plain(vault, 1))
				for i := range 31 {
					pod.Spec.InitContainers = append([]corev1.Container{{Name: fmt.Sprintf("i%d", i), Image: "x"}}, pod.Spec.InitContainers...)
				}
				return pod
			},
		},
		"injected, before hundreds of init containers": {
			pod: func(t *testing.T) *corev1.Pod {
				pod := plain(vault, 1)
				for i := range 990 {
					pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: fmt.Sprintf("i%d", i), Image: "x"})
				}
				return injected(t, pod)
			},
		},
		"projected": {
			pod: func(t *testing.T) *corev1.Pod { return injected(t, plain(projected, 1)) },
		},
		"projected, by a profile": {
			pod: func(t *testing.T) *corev1.Pod {
				return injected(t, plain(map[string]string{"podtoken.dev/profile": "cloud", "podtoken.dev/delivery": "projected"}, 1))
			},
		},
		"projected, behind a thousand volumes": {
			pod: func(t *testing.T) *corev1.Pod {
				pod := plain(projected, 1)
				for i := range 1000 {
					pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: fmt.Sprintf("v%d", i)})
				}
				return injected(t, pod)
			},
		},
		"not injected": {
			pod:  func(*testing.T) *corev1.Pod { return plain(vault, 1) },
			want: "the webhook was not called",
		},
		"not injected, among many annotations": {
			pod:  func(*testing.T) *corev1.Pod { return plain(padded(vault, 1000), 1) },
			want: "the webhook was not called",
		},
		"the prefix in another case": {
			pod:  func(*testing.T) *corev1.Pod { return plain(map[string]string{"PodToken.dev/audience": "vault"}, 1) },
			want: "the webhook was not called",
		},
		"a volume of the name that has no tokens": {
			pod: func(*testing.T) *corev1.Pod {
				pod := plain(projected, 1)
				pod.Labels = map[string]string{"podtoken.dev/injected": "true"}
				pod.Spec.Volumes = []corev1.Volume{{Name: "podtoken", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
				return pod
			},
			want: "the webhook was not called",
		},
		"in an excluded namespace": {
			pod: func(*testing.T) *corev1.Pod { return plain(vault, 1) }, namespace: excludedSpace,
			want: `pods in namespace "` + excludedSpace + `" never are`,
		},
		"in an excluded namespace, with everything forged": {
			pod: func(t *testing.T) *corev1.Pod { return injected(t, plain(vault, 1)) }, namespace: excludedSpace,
			want: `pods in namespace "` + excludedSpace + `" never are`,
		},
		"in an excluded namespace, with a forged volume": {
			pod: func(t *testing.T) *corev1.Pod { return injected(t, plain(projected, 1)) }, namespace: excludedSpace,
			want: `pods in namespace "` + excludedSpace + `" never are`,
		},
	}
	enforce := newPolicy(t, "podtoken-enforce")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			namespace := test.namespace
			if namespace == "" {
				namespace = "default"
			}
			got := enforce.verdict(t, creation(test.pod(t), namespace))
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
