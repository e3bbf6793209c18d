package main

import (
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestClientCA: the CA of client certificates is in the webhook's ConfigMap, comes into its directory under the name that its
// flag has, and none of it is there without the value.
func TestClientCA(t *testing.T) {
	for path, want := range map[string]bool{"full.yaml": true, "default.yaml": false} {
		objects := decode(t, filepath.Join(root, "charts/podtoken/golden", path))
		_, data := named[*corev1.ConfigMap](t, objects, "podtoken-webhook").Data["client-ca.crt"]
		spec := named[*appsv1.Deployment](t, objects, "podtoken-webhook").Spec.Template.Spec
		flag := slices.Contains(spec.Containers[0].Args, "--client-ca-file=/etc/podtoken/client-ca.crt")
		mounted := slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
			return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
				return s.ConfigMap != nil && s.ConfigMap.Name == "podtoken-webhook" &&
					slices.Contains(s.ConfigMap.Items, corev1.KeyToPath{Key: "client-ca.crt", Path: "client-ca.crt"})
			})
		})
		if data != want || flag != want || mounted != want {
			t.Errorf("%s: ConfigMap %t, flag %t, volume %t, want %t", path, data, flag, mounted, want)
		}
	}
}
