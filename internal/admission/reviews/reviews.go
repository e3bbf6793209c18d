// Package reviews makes AdmissionReviews of the sizes that the performance goals name, with everything in them that an API
// server sends: defaults, managed fields, the user. It is for tests and benchmarks.
package reviews

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Shape is the size of a pod as users write them. Variables are those of all containers together.
type Shape struct {
	Containers, Variables, Volumes int
}

// The shapes: about 3, 11 and 210 kB as a review.
const (
	Minimal = "minimal"
	Typical = "typical"
	Large   = "large"
)

// Shapes by name.
func Shapes() map[string]Shape {
	return map[string]Shape{
		Minimal: {Containers: 1, Variables: 0, Volumes: 1},
		Typical: {Containers: 3, Variables: 30, Volumes: 6},
		Large:   {Containers: 20, Variables: 920, Volumes: 31},
	}
}

// Annotations ask for one token with two audiences.
func Annotations() map[string]string {
	return map[string]string{"podtoken.dev/audience.vault": "vault, https://vault.example.com"} //nolint:gosec // an audience is no credential
}

// Namespace and ServiceAccount of the pods.
const (
	Namespace      = "shop"
	ServiceAccount = "shop"
)

// Pod returns a pod with the defaults that the API server has set by the time webhooks are called.
func Pod(s Shape, annotations map[string]string) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "shop-6d5c8f4b7-",
			Labels:       map[string]string{"app": "shop", "pod-template-hash": "6d5c8f4b7"},
			Annotations:  annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "shop-6d5c8f4b7", UID: "2f4c7c11-6d60-4a0c-93bb-0c1d1f6a9b52",
			}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: ServiceAccount, DeprecatedServiceAccount: ServiceAccount,
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			SchedulerName: "default-scheduler", TerminationGracePeriodSeconds: new(int64(30)),
			SecurityContext: &corev1.PodSecurityContext{}, EnableServiceLinks: new(true),
			Tolerations: []corev1.Toleration{{
				Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists,
				Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300)),
			}},
		},
	}
	for i := range s.Volumes {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
			Name: fmt.Sprintf("volume-%d", i),
			VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: fmt.Sprintf("shop-settings-%d", i)}, DefaultMode: new(int32(0o644)),
			}},
		})
	}
	for i := range s.Containers {
		container := corev1.Container{
			Name: fmt.Sprintf("app-%d", i), Image: "shop/application-server:v1.2.3", ImagePullPolicy: corev1.PullIfNotPresent,
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			LivenessProbe: newProbe("/healthz"), ReadinessProbe: newProbe("/readyz"),
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true), RunAsNonRoot: new(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			Ports: []corev1.ContainerPort{{ContainerPort: int32(8000 + i), Protocol: corev1.ProtocolTCP}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			},
		}
		for j := range s.Variables / s.Containers {
			container.Env = append(container.Env, corev1.EnvVar{
				Name: fmt.Sprintf("SHOP_SETTING_%d", j), Value: fmt.Sprintf("https://service-%d.example.com/%d/%s", i, j, strings.Repeat("x", 24)),
			})
		}
		for j := range s.Volumes {
			container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{
				Name: fmt.Sprintf("volume-%d", j), MountPath: fmt.Sprintf("/etc/shop/%d", j), ReadOnly: true,
			})
		}
		pod.Spec.Containers = append(pod.Spec.Containers, container)
	}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{managedFields(pod)}
	return pod
}

func newProbe(path string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromInt32(8080), Scheme: corev1.URISchemeHTTP,
		}},
		TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
}

// managedFields imitates the entry of the controller that created the pod.
func managedFields(pod *corev1.Pod) metav1.ManagedFieldsEntry {
	var fields strings.Builder
	fields.WriteString(`{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{`)
	for i, container := range pod.Spec.Containers {
		if i > 0 {
			fields.WriteByte(',')
		}
		fmt.Fprintf(&fields, `"k:{\"name\":\"%s\"}":{".":{},"f:env":{`, container.Name)
		for j, variable := range container.Env {
			if j > 0 {
				fields.WriteByte(',')
			}
			fmt.Fprintf(&fields, `"k:{\"name\":\"%s\"}":{".":{},"f:name":{},"f:value":{}}`, variable.Name)
		}
		fields.WriteString(`},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{}}`)
	}
	fields.WriteString(`},"f:dnsPolicy":{},"f:restartPolicy":{},"f:serviceAccountName":{}}}`)
	return metav1.ManagedFieldsEntry{
		Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1",
		Time: &metav1.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(fields.String()),
	}
}

// Review returns the review that an API server sends for the creation of the pod.
func Review(uid string, pod *corev1.Pod) ([]byte, error) {
	object, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	kind := metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
	pods := metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	return json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: types.UID(uid), Kind: kind, Resource: pods, RequestKind: &kind, RequestResource: &pods,
			Namespace: Namespace, Operation: admissionv1.Create, DryRun: new(false),
			UserInfo: authenticationv1.UserInfo{
				Username: "system:serviceaccount:kube-system:replicaset-controller", UID: "0f2d7d9c-7b2c-4d39-8f0e-4c1b8e0b7a11",
				Groups: []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"},
			},
			Object:  runtime.RawExtension{Raw: object},
			Options: runtime.RawExtension{Raw: []byte(`{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`)},
		},
	})
}
