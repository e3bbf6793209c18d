package mutate

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/podtoken/podtoken/pkg/api"
)

// sidecarResources are the resources of the sidecar: the first row that fits, QoS class without the sidecar.
//
//	the pod                                  the sidecar gets
//	has annotation sidecar-resources         that
//	has pod-level resources (spec.resources) none: the sum must not be more than the pod's
//	Guaranteed                               requests = limits = configuration guaranteedResources: it stays Guaranteed
//	BestEffort, configuration None           none: it stays BestEffort
//	else                                     configuration resources (without requests an HPA would stop to scale)
//
// A sidecar that is there already keeps what it has (see judgeResources): containers of other injectors can have come since, so that another row fits now.
func (p *plan) sidecarResources() corev1.ResourceRequirements {
	cfg := &p.cfg.Sidecar
	if p.req.resources != nil {
		return *p.req.resources
	}
	if p.podLevelResources() {
		return corev1.ResourceRequirements{}
	}
	switch qos := p.qos(); {
	case qos == corev1.PodQOSGuaranteed:
		return corev1.ResourceRequirements{Requests: cfg.GuaranteedResources, Limits: cfg.GuaranteedResources}
	case qos == corev1.PodQOSBestEffort && cfg.BestEffort == BestEffortNone:
		return corev1.ResourceRequirements{}
	}
	return *cfg.Resources
}

// noteResources is about what the user's own resources for the sidecar do to the pod.
func (p *plan) noteResources() {
	switch {
	case p.req.resources == nil:
	case p.podLevelResources():
		p.note("%s: the pod has pod-level resources (spec.resources), which must hold the sidecar's as well", api.AnnotationSidecarResources)
	case p.qos() == corev1.PodQOSGuaranteed && containerQOS(resourcesOf(p.req.resources)) != corev1.PodQOSGuaranteed:
		p.note("%s: the pod is no longer Guaranteed: give cpu and memory limits, and no other requests", api.AnnotationSidecarResources)
	}
}

func (p *plan) podLevelResources() bool {
	r := &p.pod.Spec.Resources
	return r.Requests.Any || r.Limits.Any
}

// qos is the pod's QoS class without podtoken's container, as in
// k8s.io/kubernetes@v1.37.2/pkg/apis/core/v1/helper/qos/qos.go, ComputePodQOS.
func (p *plan) qos() corev1.PodQOSClass {
	var class corev1.PodQOSClass
	for _, m := range p.members {
		c := containerQOS(m.Resources)
		if class == "" {
			class = c
		}
		if c == corev1.PodQOSBurstable || c != class {
			return corev1.PodQOSBurstable
		}
	}
	return class
}

// resourcesOf returns what of the requirements decides the QoS class.
func resourcesOf(r *corev1.ResourceRequirements) Resources {
	amounts := func(list corev1.ResourceList) Amounts {
		a := Amounts{Any: len(list) > 0}
		if q, ok := list[corev1.ResourceCPU]; ok {
			a.CPU = &q
		}
		if q, ok := list[corev1.ResourceMemory]; ok {
			a.Memory = &q
		}
		return a
	}
	return Resources{Requests: amounts(r.Requests), Limits: amounts(r.Limits)}
}

func containerQOS(r Resources) corev1.PodQOSClass {
	cpu, memory := resourceQOS(r.Requests.CPU, r.Limits.CPU), resourceQOS(r.Requests.Memory, r.Limits.Memory)
	if cpu != memory {
		return corev1.PodQOSBurstable
	}
	return cpu
}

func resourceQOS(request, limit *resource.Quantity) corev1.PodQOSClass {
	if limit == nil {
		limit = new(resource.Quantity)
	}
	if request == nil {
		request = limit // The API server's default (SetDefaults_Pod).
	}
	switch {
	case request.Cmp(*limit) != 0:
		return corev1.PodQOSBurstable
	case request.IsZero():
		return corev1.PodQOSBestEffort
	}
	return corev1.PodQOSGuaranteed
}

// Sizes of the memory volume. A file takes whole pages, of 64 KiB at most (arm64), and none is larger: eight audiences of
// 512 bytes make less than 8 KiB of JWT, and what is made out of it has that limit (pkg/tokenfile).
const (
	pageBytes  = 64 << 10
	spareFiles = 3 // the status file, and two temporary files while they are written
	volumeUnit = 1 << 20
)

// files is the number of files that the sidecar keeps.
func (r *request) files() int {
	n := 0
	for _, t := range r.tokens {
		n += 1 + len(t.extra)
		if len(t.steps) > 0 {
			n++
		}
	}
	return n
}

// volumeSize is the sizeLimit of the volume for so many files: 1Mi, more only when needed.
func volumeSize(files int) *resource.Quantity {
	units := max(1, ((files+spareFiles)*pageBytes+volumeUnit-1)/volumeUnit)
	return resource.NewQuantity(int64(units)*volumeUnit, resource.BinarySI)
}
