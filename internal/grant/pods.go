package grant

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/pkg/api"
)

// podsByServiceAccount is the index of the cache's pods. The cache adds the namespace.
const podsByServiceAccount = "serviceAccount"

// stripPod keeps of a pod what this package reads: of the sidecar its declaration, and nothing of one that has ended. What
// the pod's author wrote beside that is garbage when this returns. The cache may call it again with what it returned.
func stripPod(in any) (any, error) {
	pod, ok := in.(*corev1.Pod)
	if !ok || len(pod.Spec.Containers) == 0 { // Every pod has containers; this one was stripped before.
		return in, nil
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         pod.Namespace,
			Name:              pod.Name,
			UID:               pod.UID,
			ResourceVersion:   pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp,
		},
		Spec:   corev1.PodSpec{ServiceAccountName: pod.Spec.ServiceAccountName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if args, ok := sidecarArguments(pod); ok && !finished(pod) {
		out.Spec.InitContainers, out.Spec.NodeName = declared.of(pod, args)
	}
	return out, nil
}

// serviceAccountOf returns the name of the pod's ServiceAccount.
func serviceAccountOf(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return "default"
	}
	return pod.Spec.ServiceAccountName
}

func indexPod(object client.Object) []string {
	return []string{serviceAccountOf(object.(*corev1.Pod))}
}

// finished reports whether the pod's containers have ended for good. A pod that is only terminating still refreshes.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// running counts the pods of the cache with a sidecar that has not ended.
func running(pods []corev1.Pod) int {
	count := 0
	for i := range pods {
		if declared.get(&pods[i]) != nil {
			count++
		}
	}
	return count
}

// sidecarArguments returns the arguments of the pod's sidecar and whether it has one: pods whose tokens the kubelet
// delivers have the label, but no sidecar, and need no grant.
func sidecarArguments(pod *corev1.Pod) ([]string, bool) {
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == api.ContainerName {
			return c.Args, true
		}
	}
	return nil, false
}
