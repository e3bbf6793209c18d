package mutate

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
)

// Pod has the fields of a pod that decisions are made from, and no others: it is cheap to decode out of an
// AdmissionReview with encoding/json, and what is not in it cannot be changed by accident. Names and shapes are those
// of k8s.io/api/core/v1.
type Pod struct {
	Metadata Metadata `json:"metadata"`
	Spec     Spec     `json:"spec"`
}

// Metadata of a Pod. Name is empty when the API server will generate it (GenerateName), UID always is at admission.
type Metadata struct {
	Name         string            `json:"name"`
	GenerateName string            `json:"generateName"`
	Namespace    string            `json:"namespace"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
}

// Spec of a Pod.
type Spec struct {
	ServiceAccountName    string                       `json:"serviceAccountName"`
	Volumes               []Volume                     `json:"volumes"`
	InitContainers        []InitContainer              `json:"initContainers"`
	Containers            []Container                  `json:"containers"`
	SecurityContext       *PodSecurityContext          `json:"securityContext"`
	Resources             *corev1.ResourceRequirements `json:"resources"`
	HostNetwork           bool                         `json:"hostNetwork"`
	ShareProcessNamespace bool                         `json:"shareProcessNamespace"`
	OS                    *corev1.PodOS                `json:"os"`
	NodeSelector          map[string]string            `json:"nodeSelector"`
	Affinity              *Affinity                    `json:"affinity"`
}

// PodSecurityContext of a Spec. RunAsUser holds for the containers that have none of their own.
type PodSecurityContext struct {
	RunAsUser *int64 `json:"runAsUser"`
	FSGroup   *int64 `json:"fsGroup"`
}

// Affinity of a Spec, as far as it can bind a pod to an operating system.
type Affinity struct {
	NodeAffinity *struct {
		Required *corev1.NodeSelector `json:"requiredDuringSchedulingIgnoredDuringExecution"`
	} `json:"nodeAffinity"`
}

// Volume of a Spec. Only the two sources that podtoken itself uses are looked at; a volume has exactly one source.
type Volume struct {
	Name      string                        `json:"name"`
	EmptyDir  *corev1.EmptyDirVolumeSource  `json:"emptyDir"`
	Projected *corev1.ProjectedVolumeSource `json:"projected"`
}

// Container of a Spec.
type Container struct {
	Name            string                      `json:"name"`
	Env             []EnvVar                    `json:"env"`
	Ports           []ContainerPort             `json:"ports"`
	Resources       corev1.ResourceRequirements `json:"resources"`
	VolumeMounts    []VolumeMount               `json:"volumeMounts"`
	SecurityContext *SecurityContext            `json:"securityContext"`
}

// EnvVar of a Container. Value is empty when the variable has a valueFrom.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ContainerPort of a Container. Protocol is TCP when empty.
type ContainerPort struct {
	ContainerPort int32           `json:"containerPort"`
	Protocol      corev1.Protocol `json:"protocol"`
}

// VolumeMount of a Container.
type VolumeMount struct {
	Name        string `json:"name"`
	MountPath   string `json:"mountPath"`
	ReadOnly    bool   `json:"readOnly"`
	SubPath     string `json:"subPath"`
	SubPathExpr string `json:"subPathExpr"`
}

// SecurityContext of a Container.
type SecurityContext struct {
	RunAsUser      *int64                 `json:"runAsUser"`
	SELinuxOptions *corev1.SELinuxOptions `json:"seLinuxOptions"`
}

// InitContainer is a Container together with its own JSON, which is needed to move podtoken's container to the front
// without losing anything that others put into it.
type InitContainer struct {
	Container

	raw json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *InitContainer) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &c.Container); err != nil {
		return err
	}
	c.raw = append(c.raw[:0], data...)
	return nil
}
