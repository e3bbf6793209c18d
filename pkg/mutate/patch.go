package mutate

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	"gomodules.xyz/jsonpatch/v2"

	"github.com/podtoken/podtoken/pkg/api"
)

// envVar and volumeMount are what the user's containers get.
type envVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type volumeMount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly"`
}

// operations is the patch of a settled plan without conflicts: explicit operations for what is missing. An array or map
// that is absent, null or empty is added as a whole, else single elements are. The only "remove" is that of our own
// container, which is added again at the front.
func (p *plan) operations() []jsonpatch.Operation {
	ops := make(operations, 0, 8+2*len(p.members))
	p.patchMetadata(&ops)
	p.patchVolumes(&ops)
	shift := p.patchSidecar(&ops)
	mount := volumeMount{Name: api.VolumeTokens, MountPath: p.req.mountPath, ReadOnly: true}
	for _, m := range p.members {
		if !m.selected {
			continue
		}
		index := m.index
		if m.list == initContainersField {
			index = shift(index)
		}
		at := "/spec/" + m.list + "/" + strconv.Itoa(index)
		var missing []envVar
		for _, t := range p.req.tokens {
			if t.env != "" && m.envIndex(t.env) < 0 {
				missing = append(missing, envVar{t.env, t.file})
			}
		}
		appendTo(&ops, at+"/env", len(m.Env), missing)
		if !m.hasMount(p.req.mountPath) {
			appendTo(&ops, at+"/volumeMounts", len(m.VolumeMounts), []volumeMount{mount})
		}
	}
	return ops
}

type operations []jsonpatch.Operation

func (ops *operations) add(pointer string, value any) {
	*ops = append(*ops, jsonpatch.NewOperation("add", pointer, value))
}

// appendTo adds elements at the end of an array that has so many already.
func appendTo[T any](ops *operations, pointer string, length int, elements []T) {
	if length == 0 && len(elements) > 0 {
		ops.add(pointer, elements)
		return
	}
	for _, element := range elements {
		ops.add(pointer+"/-", element)
	}
}

// hasMount tells whether our mount is at the path; that nothing else is there was checked (see conflicts).
func (m member) hasMount(mountPath string) bool {
	return slices.ContainsFunc(m.VolumeMounts, func(v VolumeMount) bool {
		return v.Name == api.VolumeTokens && path.Clean(v.MountPath) == mountPath
	})
}

func (p *plan) patchMetadata(ops *operations) {
	meta := &p.pod.Metadata
	if len(meta.Labels) == 0 {
		ops.add("/metadata/labels", map[string]string{api.LabelInjected: "true"})
	} else if _, ok := meta.Labels[api.LabelInjected]; !ok {
		ops.add("/metadata/labels/"+escape(api.LabelInjected), "true")
	}
	// There are annotations: without ours we would not be here.
	if _, ok := meta.Annotations[api.AnnotationStatus]; !ok {
		ops.add("/metadata/annotations/"+escape(api.AnnotationStatus), p.encoded.status)
	}
	// A memory volume would keep the cluster autoscaler from removing the node. It splits the list at commas, and
	// knows no blanks. Projected volumes do not count.
	evict := meta.Annotations[api.AnnotationSafeToEvict]
	if names := strings.Split(evict, ","); !p.req.projected && !slices.Contains(names, api.VolumeTokens) {
		if evict != "" {
			evict += ","
		}
		ops.add("/metadata/annotations/"+escape(api.AnnotationSafeToEvict), evict+api.VolumeTokens)
	}
}

func (p *plan) patchVolumes(ops *operations) {
	var missing []json.RawMessage
	for i, volume := range p.volumes {
		if !p.hasVolume(volume.Name) {
			missing = append(missing, p.encoded.volumes[i])
		}
	}
	appendTo(ops, "/spec/volumes", len(p.pod.Spec.Volumes), missing)
}

// patchSidecar brings our container to the front of the init containers, and returns where others are afterwards.
func (p *plan) patchSidecar(ops *operations) (shift func(int) int) {
	same := func(index int) int { return index }
	after := func(index int) int { return index + 1 }
	switch {
	case p.sidecar == nil || p.own == 0:
		return same
	case p.own > 0:
		*ops = append(*ops, jsonpatch.NewOperation("remove", "/spec/initContainers/"+strconv.Itoa(p.own), nil))
		ops.add("/spec/initContainers/0", p.pod.Spec.InitContainers[p.own].raw)
		return func(index int) int {
			if index < p.own {
				return index + 1
			}
			return index
		}
	case len(p.pod.Spec.InitContainers) == 0:
		ops.add("/spec/initContainers", []any{p.encoded.sidecar})
	default:
		ops.add("/spec/initContainers/0", p.encoded.sidecar)
	}
	return after
}

// escape writes a key as a segment of a JSON pointer (RFC 6901).
func escape(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
