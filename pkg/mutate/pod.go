package mutate

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Pod has the fields of a pod that decisions are made from, and no others: it is cheap to read out of an AdmissionReview
// (see ReadPod), and what is not in it cannot be changed by accident. Names are those of k8s.io/api/core/v1.
type Pod struct {
	Metadata Metadata
	Spec     Spec
}

// Metadata of a Pod. Name is empty when the API server will generate it (GenerateName), UID always is at admission.
type Metadata struct {
	Name         string
	GenerateName string
	Namespace    string
	Labels       map[string]string
	// Annotations has those that can matter (see matters).
	Annotations map[string]string
}

// Spec of a Pod.
type Spec struct {
	ServiceAccountName string
	// RestartPolicy is Always when empty.
	RestartPolicy         corev1.RestartPolicy
	Volumes               []Volume
	InitContainers        []InitContainer
	Containers            []Container
	SecurityContext       PodSecurityContext
	Resources             Resources
	HostNetwork           bool
	ShareProcessNamespace bool
	OS                    string
	NodeSelector          map[string]string
	// RequiredNodeAffinity is affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.
	RequiredNodeAffinity *corev1.NodeSelector
}

// PodSecurityContext of a Spec. RunAsUser and RunAsGroup hold for the containers that have none of their own.
type PodSecurityContext struct {
	RunAsUser  *int64
	RunAsGroup *int64
	FSGroup    *int64
	// AppArmor is the type of appArmorProfile; empty for none.
	AppArmor corev1.AppArmorProfileType
	// Windows is set when there are windowsOptions.
	Windows bool
}

// Volume of a Spec; a volume has exactly one source. EmptyDir and Projected, which podtoken itself uses, are read only if the volume
// has one of podtoken's names.
type Volume struct {
	Name string
	// Source is the name of the field that has the source, as "configMap"; empty when there is none, which is an emptyDir.
	Source string
	// ReadOnly is the source's own readOnly, as of a persistentVolumeClaim.
	ReadOnly  bool
	EmptyDir  *corev1.EmptyDirVolumeSource
	Projected *corev1.ProjectedVolumeSource
}

// Container of a Spec.
type Container struct {
	Name            string
	Env             Variables
	Ports           []ContainerPort
	Resources       Resources
	VolumeMounts    []VolumeMount
	SecurityContext SecurityContext
	// RestartPolicy is set for init containers that run beside the others (native sidecars).
	RestartPolicy corev1.ContainerRestartPolicy
	// TerminationMessagePath is where the kubelet mounts a file of its own.
	TerminationMessagePath string
}

// ContainerPort of a Container. Protocol is TCP when empty.
type ContainerPort struct {
	ContainerPort int32
	Protocol      corev1.Protocol
}

// VolumeMount of a Container.
type VolumeMount struct {
	Name        string
	MountPath   string
	ReadOnly    bool
	SubPath     string
	SubPathExpr string
}

// SecurityContext of a Container.
type SecurityContext struct {
	RunAsUser      *int64
	RunAsGroup     *int64
	SELinuxOptions *corev1.SELinuxOptions
	// Capabilities that are added to, and dropped from, those that the container runtime gives.
	AddedCapabilities, DroppedCapabilities []string
	Privileged                             bool
	// Windows is set when there are windowsOptions.
	Windows bool
}

// Resources of a pod or a container, as far as the QoS class depends on them.
type Resources struct {
	Requests, Limits Amounts
}

// Amounts are the quantities of a resource list that decide the QoS class; nil ones are absent.
type Amounts struct {
	CPU, Memory *resource.Quantity
	// Any is set when the list has an element, of whatever name.
	Any bool
}

// InitContainer is a Container together with its own JSON, which is needed to move podtoken's container to the front
// without losing anything that others put into it.
type InitContainer struct {
	Container

	raw json.RawMessage
}
