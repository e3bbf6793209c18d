package main

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

const (
	namespace      = "podstart"
	serviceAccount = "app"
	hour           = int64(3600)
)

// audiences are three, as a workload with several receivers has them.
var audiences = []string{"vault", "billing", "storage"}

// script is the application: it says whether it has its tokens, and when it has started by the time of its first line.
const script = `for t in $TOKENS; do [ -s "$t" ] || echo "missing $t"; done; echo up; exec sleep 86400`

// plain is a pod of one application, without tokens of anybody.
func plain() *corev1.Pod {
	none := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "app-", Namespace: namespace},
		Spec: corev1.PodSpec{
			ServiceAccountName:            serviceAccount,
			TerminationGracePeriodSeconds: &none,
			Containers: []corev1.Container{{
				Name: "app", Image: cluster.ImageBusybox, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{"/bin/busybox", "sh", "-c", script},
			}},
		},
	}
}

// expects has the application look for its tokens in that directory.
func expects(pod *corev1.Pod, directory string) *corev1.Pod {
	files := ""
	for _, audience := range audiences {
		files += directory + "/" + audience + " "
	}
	app := &pod.Spec.Containers[0]
	app.Env = append(app.Env, corev1.EnvVar{Name: "TOKENS", Value: files})
	return pod
}

// annotated asks podtoken for the tokens.
func annotated(wait string) *corev1.Pod {
	pod := expects(plain(), api.DefaultMountPath)
	pod.Annotations = map[string]string{api.AnnotationWait: wait}
	for _, audience := range audiences {
		pod.Annotations[api.AnnotationAudienceOf+audience] = audience
	}
	return pod
}

// projected has the kubelet make them.
func projected() *corev1.Pod {
	pod := expects(plain(), "/tokens")
	expiration := hour
	var sources []corev1.VolumeProjection
	for _, audience := range audiences {
		sources = append(sources, corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: &expiration, Path: audience}})
	}
	pod.Spec.Volumes = []corev1.Volume{{Name: "tokens", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tokens", MountPath: "/tokens", ReadOnly: true}}
	return pod
}

// byHand is what the webhook made of a pod, for others to change: without the annotations nobody looks at it any more.
func byHand(injected *corev1.Pod) *corev1.Pod {
	pod := plain()
	pod.Spec.InitContainers = injected.Spec.InitContainers
	pod.Spec.Containers = injected.Spec.Containers
	pod.Spec.Volumes = injected.Spec.Volumes
	pod = pod.DeepCopy()
	// The API server's own volume comes anew with each pod.
	pod.Spec.Volumes = slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return isDefaultToken(v.Name) })
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = slices.DeleteFunc(containers[i].VolumeMounts, func(m corev1.VolumeMount) bool { return isDefaultToken(m.Name) })
		}
	}
	return pod
}

func isDefaultToken(volume string) bool {
	const prefix = "kube-api-access-"
	return len(volume) > len(prefix) && volume[:len(prefix)] == prefix
}

// initialised has an init container wait for the tokens.
func initialised(injected *corev1.Pod) *corev1.Pod {
	pod := byHand(injected)
	sidecar := &pod.Spec.InitContainers[0]
	sidecar.Lifecycle = nil
	waiter := *sidecar.DeepCopy()
	waiter.Name, waiter.RestartPolicy, waiter.Command, waiter.Args = "wait", nil, []string{api.SidecarBinary, api.CommandWait}, nil
	pod.Spec.InitContainers = append(pod.Spec.InitContainers, waiter)
	return pod
}
