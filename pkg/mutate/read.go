package mutate

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/jsonread"
)

// UnmarshalJSON implements json.Unmarshaler.
func (p *Pod) UnmarshalJSON(data []byte) error {
	// The pod's strings are parts of the document, and encoding/json uses data again.
	return jsonread.Document(bytes.Clone(data), func(r *jsonread.Reader) {
		if pod := ReadPod(r); pod != nil {
			*p = *pod
		}
	})
}

// ReadPod reads a pod, nil for null. Its strings are parts of the reader's document. The spec is not read when the metadata,
// which an API server sends first, has no annotation of podtoken: then nothing depends on it.
func ReadPod(r *jsonread.Reader) *Pod {
	if r.Null() {
		return nil
	}
	var pod Pod
	known := false
	r.Object(func(name string) {
		switch {
		case name == "metadata" && known:
			r.Skip()
			r.Mismatch("the only one of its name")
		case name == "metadata":
			pod.Metadata, known = readMetadata(r), true
		case name == "spec" && (!known || asks(pod.Metadata.Annotations)):
			pod.Spec = readSpec(r)
		default:
			r.Skip()
		}
	})
	return &pod
}

func readMetadata(r *jsonread.Reader) (m Metadata) {
	r.Object(func(name string) {
		switch name {
		case "name":
			m.Name = r.String()
		case "generateName":
			m.GenerateName = r.String()
		case "namespace":
			m.Namespace = r.String()
		case "labels":
			m.Labels = r.Strings(nil)
		case "annotations":
			m.Annotations = r.Strings(matters)
		default:
			r.Skip()
		}
	})
	return m
}

// matters reports whether a decision can depend on the annotation. Others may be long: kubectl keeps whole manifests there.
func matters(annotation string) bool {
	return hasPrefix(annotation) || annotation == api.AnnotationSafeToEvict || annotation == api.AnnotationMirrorPod
}

// maxContainers is more than a node can run in one Pod. The patch has some hundred bytes for each token in each of them.
const maxContainers = 1000

func readSpec(r *jsonread.Reader) (s Spec) {
	r.Object(func(name string) {
		switch name {
		case "serviceAccountName":
			s.ServiceAccountName = r.String()
		case "restartPolicy":
			s.RestartPolicy = corev1.RestartPolicy(r.String())
		case "volumes":
			s.Volumes = readList(r, readVolume)
		case "initContainers":
			s.InitContainers = readList(r, readInitContainer)
		case "containers":
			s.Containers = readList(r, readContainer)
		case "securityContext":
			s.SecurityContext = readPodSecurityContext(r)
		case "resources":
			s.Resources = readResources(r)
		case "hostNetwork":
			s.HostNetwork = r.Bool()
		case "shareProcessNamespace":
			s.ShareProcessNamespace = r.Bool()
		case "os":
			s.OS = readOnly(r, "name", "", r.String)
		case "nodeSelector":
			s.NodeSelector = r.Strings(nil)
		case "affinity":
			s.RequiredNodeAffinity = readOnly(r, "nodeAffinity", nil, func() *corev1.NodeSelector {
				return readOnly(r, "requiredDuringSchedulingIgnoredDuringExecution", nil, func() *corev1.NodeSelector {
					return decode[corev1.NodeSelector](r, r.Raw())
				})
			})
		default:
			r.Skip()
		}
	})
	// The sidecar that an earlier call added is not the author's.
	if all := len(s.InitContainers) + len(s.Containers); all > maxContainers+1 ||
		all > maxContainers && !slices.ContainsFunc(s.InitContainers, func(c InitContainer) bool { return c.Name == api.ContainerName }) {
		r.Mismatch("one with at most " + strconv.Itoa(maxContainers) + " containers")
	}
	return s
}

// readOnly reads an object of which one field is of interest.
func readOnly[T any](r *jsonread.Reader, field string, value T, read func() T) T {
	r.Object(func(name string) {
		if name == field {
			value = read()
		} else {
			r.Skip()
		}
	})
	return value
}

// readList reads an array, nil for null. Most arrays fit into what is on the stack; their copy has no room to spare.
func readList[T any](r *jsonread.Reader, read func(*jsonread.Reader) T) []T {
	if r.Null() {
		return nil
	}
	var few [16]T
	list := few[:0]
	r.Array(func() { list = append(list, read(r)) })
	return append(make([]T, 0, len(list)), list...)
}

func readPodSecurityContext(r *jsonread.Reader) (c PodSecurityContext) {
	r.Object(func(name string) {
		switch name {
		case "runAsUser":
			c.RunAsUser = r.Int(64)
		case "runAsGroup":
			c.RunAsGroup = r.Int(64)
		case "fsGroup":
			c.FSGroup = r.Int(64)
		case "appArmorProfile":
			c.AppArmor = readOnly(r, "type", "", func() corev1.AppArmorProfileType { return corev1.AppArmorProfileType(r.String()) })
		case "windowsOptions":
			c.Windows = r.Raw() != ""
		default:
			r.Skip()
		}
	})
	return c
}

func readVolume(r *jsonread.Reader) (v Volume) {
	var emptyDir, projected string
	r.Object(func(name string) {
		switch name {
		case "name":
			v.Name = r.String()
		case "emptyDir":
			if emptyDir = r.Raw(); emptyDir != "" {
				v.Source = name
			}
		case "projected":
			if projected = r.Raw(); projected != "" {
				v.Source = name
			}
		default:
			if !r.IsObject() {
				r.Skip()
				return
			}
			v.Source, v.ReadOnly = name, readOnly(r, "readOnly", false, r.Bool)
		}
	})
	if v.Name == api.VolumeTokens || v.Name == api.VolumeAPI {
		v.EmptyDir = decode[corev1.EmptyDirVolumeSource](r, emptyDir)
		v.Projected = decode[corev1.ProjectedVolumeSource](r, projected)
	}
	return v
}

func readInitContainer(r *jsonread.Reader) (c InitContainer) {
	raw := r.Within(func() { c.Container = readContainer(r) })
	if c.Name == api.ContainerName {
		c.raw = json.RawMessage(raw)
	}
	return c
}

func readContainer(r *jsonread.Reader) (c Container) {
	r.Object(func(name string) {
		switch name {
		case "name":
			c.Name = r.String()
		case "env":
			c.Env = Variables{r.RawArray()}
		case "ports":
			c.Ports = readList(r, readPort)
		case "resources":
			c.Resources = readResources(r)
		case "volumeMounts":
			c.VolumeMounts = readList(r, readVolumeMount)
		case "terminationMessagePath":
			c.TerminationMessagePath = r.String()
		case "restartPolicy":
			c.RestartPolicy = corev1.ContainerRestartPolicy(r.String())
		case "securityContext":
			c.SecurityContext = readSecurityContext(r)
		default:
			r.Skip()
		}
	})
	return c
}

func readPort(r *jsonread.Reader) (p ContainerPort) {
	r.Object(func(name string) {
		switch name {
		case "containerPort":
			p.ContainerPort = 0
			if port := r.Int(32); port != nil {
				p.ContainerPort = int32(*port) //nolint:gosec // it was read as one of 32 bits
			}
		case "protocol":
			p.Protocol = corev1.Protocol(r.String())
		default:
			r.Skip()
		}
	})
	return p
}

func readVolumeMount(r *jsonread.Reader) (v VolumeMount) {
	r.Object(func(name string) {
		switch name {
		case "name":
			v.Name = r.String()
		case "mountPath":
			v.MountPath = r.String()
		case "readOnly":
			v.ReadOnly = r.Bool()
		case "subPath":
			v.SubPath = r.String()
		case "subPathExpr":
			v.SubPathExpr = r.String()
		default:
			r.Skip()
		}
	})
	return v
}

func readSecurityContext(r *jsonread.Reader) (c SecurityContext) {
	r.Object(func(name string) {
		switch name {
		case "runAsUser":
			c.RunAsUser = r.Int(64)
		case "runAsGroup":
			c.RunAsGroup = r.Int(64)
		case "seLinuxOptions":
			c.SELinuxOptions = decode[corev1.SELinuxOptions](r, r.Raw())
		case "capabilities":
			c.AddedCapabilities, c.DroppedCapabilities = readCapabilities(r)
		case "privileged":
			c.Privileged = r.Bool()
		case "windowsOptions":
			c.Windows = r.Raw() != ""
		default:
			r.Skip()
		}
	})
	return c
}

func readCapabilities(r *jsonread.Reader) (added, dropped []string) {
	r.Object(func(name string) {
		switch name {
		case "add":
			added = readList(r, (*jsonread.Reader).String)
		case "drop":
			dropped = readList(r, (*jsonread.Reader).String)
		default:
			r.Skip()
		}
	})
	return added, dropped
}

func readResources(r *jsonread.Reader) (res Resources) {
	r.Object(func(name string) {
		switch name {
		case "requests":
			res.Requests = readAmounts(r)
		case "limits":
			res.Limits = readAmounts(r)
		default:
			r.Skip()
		}
	})
	return res
}

func readAmounts(r *jsonread.Reader) (a Amounts) {
	r.Object(func(name string) {
		a.Any = true
		switch corev1.ResourceName(name) {
		case corev1.ResourceCPU:
			a.CPU = readQuantity(r)
		case corev1.ResourceMemory:
			a.Memory = readQuantity(r)
		default:
			r.Skip()
		}
	})
	return a
}

// readQuantity reads a quantity; null is 0, as everywhere in Kubernetes.
func readQuantity(r *jsonread.Reader) *resource.Quantity {
	q := new(resource.Quantity)
	if raw := r.Raw(); raw != "" && q.UnmarshalJSON([]byte(raw)) != nil {
		r.Mismatch("a quantity")
	}
	return q
}

// decode decodes JSON that few pods have with encoding/json, nil for none.
func decode[T any](r *jsonread.Reader, raw string) *T {
	if raw == "" {
		return nil
	}
	value := new(T)
	if err := json.Unmarshal([]byte(raw), value); err != nil {
		r.Mismatch("what Kubernetes has there")
	}
	return value
}
