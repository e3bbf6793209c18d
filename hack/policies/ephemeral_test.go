package policies

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func debugger(name string, mounts ...corev1.VolumeMount) corev1.EphemeralContainer {
	return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "busybox", VolumeMounts: mounts}}
}

// TestEphemeralContainers: they do not get at what is the sidecar's, and debugging goes on.
func TestEphemeralContainers(t *testing.T) {
	credential := corev1.VolumeMount{Name: "podtoken-api", MountPath: "/a", ReadOnly: true}
	writable := corev1.VolumeMount{Name: "podtoken", MountPath: "/t"}
	readOnly := corev1.VolumeMount{Name: "podtoken", MountPath: "/t", ReadOnly: true}
	other := corev1.VolumeMount{Name: "data", MountPath: "/d"}
	targeting := func(name string) corev1.EphemeralContainer {
		c := debugger("d")
		c.TargetContainerName = name
		return c
	}
	many := func(n int) (all []corev1.EphemeralContainer) {
		for i := range n {
			all = append(all, debugger(fmt.Sprintf("e%d", i)))
		}
		return all
	}
	sidecar := injected(t, plain(map[string]string{"podtoken.dev/audience": "vault"}, 1))
	unmarked := sidecar.DeepCopy()
	unmarked.Labels, unmarked.Annotations = nil, nil
	namesake := plain(nil, 1)
	namesake.Spec.InitContainers = []corev1.Container{{Name: "podtoken", Image: "x", Command: []string{"sh"}}}
	tests := map[string]struct {
		pod        *corev1.Pod
		old, added []corev1.EphemeralContainer
		want       string
	}{
		"no mount":                             {sidecar, nil, many(1), ""},
		"the token volume read-only":           {sidecar, nil, []corev1.EphemeralContainer{debugger("d", readOnly, other)}, ""},
		"another target":                       {sidecar, nil, []corev1.EphemeralContainer{targeting("c0")}, ""},
		"the credential":                       {sidecar, nil, []corev1.EphemeralContainer{debugger("d", other, credential)}, `podtoken: ephemeral container "d" mounts the volume "podtoken-api"`},
		"the credential, of the second":        {sidecar, nil, []corev1.EphemeralContainer{debugger("d"), debugger("e", credential)}, `"e" mounts the volume "podtoken-api"`},
		"the token volume writable":            {sidecar, nil, []corev1.EphemeralContainer{debugger("d", writable)}, `podtoken: ephemeral container "d" mounts the volume "podtoken" writable: set readOnly to true`},
		"read-only and writable":               {sidecar, nil, []corev1.EphemeralContainer{debugger("d", readOnly, writable)}, `"podtoken" writable`},
		"the sidecar as target":                {sidecar, nil, []corev1.EphemeralContainer{targeting("podtoken")}, `podtoken: ephemeral container "d" has targetContainerName "podtoken"`},
		"without label and annotations":        {unmarked, nil, []corev1.EphemeralContainer{debugger("d", credential)}, `"podtoken-api"`},
		"one that was there before the policy": {sidecar, []corev1.EphemeralContainer{debugger("d", credential)}, many(1), ""},
		"and another one":                      {sidecar, []corev1.EphemeralContainer{debugger("d", credential)}, []corev1.EphemeralContainer{debugger("e", writable)}, `"e" mounts`},
		"before the one that was there":        {sidecar, []corev1.EphemeralContainer{debugger("d")}, []corev1.EphemeralContainer{debugger("a", credential)}, `"a" mounts`},
		"16 at once":                           {sidecar, nil, many(16), ""},
		"17 at once":                           {sidecar, nil, many(17), "16 added at once"},
		"the 257th":                            {sidecar, many(256), []corev1.EphemeralContainer{debugger("d")}, "at most 256"},
		"many mounts":                          {sidecar, nil, []corev1.EphemeralContainer{debugger("d", make([]corev1.VolumeMount, 129)...)}, "at most 128 volumeMounts"},
		"in a Pod without podtoken":            {plain(nil, 1), nil, []corev1.EphemeralContainer{debugger("d", writable, credential), targeting("podtoken")}, ""},
		"in a Pod with a namesake":             {namesake, nil, []corev1.EphemeralContainer{targeting("podtoken")}, ""},
		"in a Pod without podtoken, very many": {plain(nil, 1), nil, many(1000), ""},
	}
	p := newPolicy(t, "podtoken-ephemeralcontainers")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old, pod := test.pod.DeepCopy(), test.pod.DeepCopy()
			old.Spec.EphemeralContainers = test.old
			pod.Spec.EphemeralContainers = append(append([]corev1.EphemeralContainer{}, test.added...), test.old...)
			got := p.verdict(t, debugging(pod, old, "default"))
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
