package mutate

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/podtoken/podtoken/pkg/api"
)

// Names of ours as segments of JSON pointers (RFC 6901).
var (
	labelInjectedPath = "/metadata/labels/" + escape(api.LabelInjected)
	statusPath        = "/metadata/annotations/" + escape(api.AnnotationStatus)
	safeToEvictPath   = "/metadata/annotations/" + escape(api.AnnotationSafeToEvict)
)

const (
	initContainersPath = "/spec/" + initContainersField

	// Enough for nearly every patch: one without containers, and what each of them adds.
	patchBytes          = 4 << 10
	patchBytesPerMember = 300
)

// patch returns the JSON Patch of a settled plan without conflicts: explicit operations for what is missing, nil for none.
// An array or map that is absent, null or empty is added as a whole, else single elements are. The only "remove" is that
// of our own container, which is added again at the front.
func (p *plan) patch() []byte {
	w := &patchWriter{buf: make([]byte, 0, patchBytes+patchBytesPerMember*len(p.members))}
	p.patchMetadata(w)
	p.patchVolumes(w)
	shift := p.patchSidecar(w)
	for _, m := range p.members {
		if !m.selected {
			continue
		}
		index := m.index
		if m.list == initContainersField {
			index = shift(index)
		}
		p.patchMember(w, m, "/spec/"+m.list+"/"+strconv.Itoa(index))
	}
	return w.done()
}

// patchMember gives a container at the path its variables and its mount.
func (p *plan) patchMember(w *patchWriter, m member, at string) {
	// Ours come first: the kubelet expands "$(NAME)" in a variable only with those that stand before it (k8s.io/kubernetes@v1.37.2/pkg/kubelet/kubelet_pods.go,
	// makeEnvironmentVariables).
	variables := w.front(at, "/env", m.env.Empty())
	for _, t := range p.req.tokens {
		if t.env != "" && !m.env.has(t.env) {
			variables.element()
			w.text(`{"name":`).quoted(t.env).text(`,"value":`).quoted(t.file).text(`}`)
		}
		for _, v := range t.variables {
			if v.name != t.env && !m.env.has(v.name) && !m.env.has(v.unless) {
				variables.element()
				w.text(`{"name":`).quoted(v.name).text(`,"value":`).quoted(v.value).text(`}`)
			}
		}
	}
	variables.end()
	if !m.hasMount(p.req.mountPath) {
		mounts := w.list(at, "/volumeMounts", len(m.VolumeMounts) == 0)
		mounts.element()
		w.text(`{"name":"` + api.VolumeTokens + `","mountPath":`).quoted(p.req.mountPath).text(`,"readOnly":true}`)
		mounts.end()
	}
}

// hasMount tells whether our mount is at the path; that nothing else is there was checked (see conflicts).
func (m member) hasMount(mountPath string) bool {
	return slices.ContainsFunc(m.VolumeMounts, func(v VolumeMount) bool {
		return v.Name == api.VolumeTokens && containerPath(v.MountPath) == mountPath
	})
}

func (p *plan) patchMetadata(w *patchWriter) {
	meta := &p.pod.Metadata
	if len(meta.Labels) == 0 {
		w.add("/metadata/labels").text(`{"` + api.LabelInjected + `":"true"}`).end()
	} else if _, ok := meta.Labels[api.LabelInjected]; !ok {
		w.add(labelInjectedPath).text(`"true"`).end()
	}
	// There are annotations: without ours we would not be here.
	if _, ok := meta.Annotations[api.AnnotationStatus]; !ok {
		w.add(statusPath).quoted(p.encoded.status).end()
	}
	// A memory volume would keep the cluster autoscaler from removing the node. It splits the list at commas, and
	// knows no blanks. Projected volumes do not count.
	evict := meta.Annotations[api.AnnotationSafeToEvict]
	if names := strings.Split(evict, ","); !p.req.projected && !slices.Contains(names, api.VolumeTokens) {
		if evict != "" {
			evict += ","
		}
		w.add(safeToEvictPath).quoted(evict + api.VolumeTokens).end()
	}
}

func (p *plan) patchVolumes(w *patchWriter) {
	volumes := w.list("/spec", "/volumes", len(p.pod.Spec.Volumes) == 0)
	for i, volume := range p.volumes {
		if !p.hasVolume(volume.Name) {
			volumes.element()
			w.json(p.encoded.volumes[i])
		}
	}
	volumes.end()
}

// patchSidecar brings our container to the front of the init containers, and returns where others are afterwards.
func (p *plan) patchSidecar(w *patchWriter) (shift func(int) int) {
	same := func(index int) int { return index }
	after := func(index int) int { return index + 1 }
	switch {
	case p.sidecar == nil || p.own == 0:
		return same
	case p.own > 0:
		w.remove(initContainersPath + "/" + strconv.Itoa(p.own))
		w.add(initContainersPath + "/0").json(p.pod.Spec.InitContainers[p.own].raw).end()
		return func(index int) int {
			if index < p.own {
				return index + 1
			}
			return index
		}
	case len(p.pod.Spec.InitContainers) == 0:
		w.add(initContainersPath).text("[").json(p.encoded.sidecar).text("]").end()
	default:
		w.add(initContainersPath + "/0").json(p.encoded.sidecar).end()
	}
	return after
}

// patchWriter writes a JSON Patch (RFC 6902) into one buffer. Paths are made of names of ours, and need no escapes.
type patchWriter struct{ buf []byte }

// add begins an operation; its value and end follow.
func (w *patchWriter) add(pointer ...string) *patchWriter {
	w.begin("add", pointer...)
	return w.text(`,"value":`)
}

func (w *patchWriter) remove(pointer string) {
	w.begin("remove", pointer)
	w.end()
}

func (w *patchWriter) begin(operation string, pointer ...string) {
	separator := ","
	if len(w.buf) == 0 {
		separator = "["
	}
	w.text(separator).text(`{"op":"`).text(operation).text(`","path":"`)
	for _, segment := range pointer {
		w.text(segment)
	}
	w.text(`"`)
}

func (w *patchWriter) end() { w.text("}") }

// text appends JSON that is written here.
func (w *patchWriter) text(s string) *patchWriter {
	w.buf = append(w.buf, s...)
	return w
}

// json appends JSON that was encoded elsewhere.
func (w *patchWriter) json(data []byte) *patchWriter {
	w.buf = append(w.buf, data...)
	return w
}

// quoted appends a string.
func (w *patchWriter) quoted(s string) *patchWriter {
	// The only error is invalid UTF-8, which was replaced when the pod was read.
	w.buf, _ = jsontext.AppendQuote(w.buf, s)
	return w
}

// done returns the patch, nil when it has no operation.
func (w *patchWriter) done() []byte {
	if len(w.buf) == 0 {
		return nil
	}
	return append(w.buf, ']')
}

// list adds elements at the end of an array: to an empty one in one operation, which makes it, and else in one each.
func (w *patchWriter) list(at, field string, empty bool) *listWriter {
	return &listWriter{w: w, at: at, field: field, whole: empty}
}

// front adds them at its beginning.
func (w *patchWriter) front(at, field string, empty bool) *listWriter {
	return &listWriter{w: w, at: at, field: field, whole: empty, first: true}
}

type listWriter struct {
	w            *patchWriter
	at, field    string
	whole, first bool
	elements     int
}

// element begins an element; its JSON follows.
func (l *listWriter) element() {
	switch {
	case !l.whole:
		if l.elements > 0 {
			l.w.end()
		}
		place := "/-"
		if l.first {
			place = "/" + strconv.Itoa(l.elements)
		}
		l.w.add(l.at, l.field, place)
	case l.elements == 0:
		l.w.add(l.at, l.field).text("[")
	default:
		l.w.text(",")
	}
	l.elements++
}

// end follows the last element.
func (l *listWriter) end() {
	switch {
	case l.elements == 0:
	case l.whole:
		l.w.text("]").end()
	default:
		l.w.end()
	}
}

// escape writes a key as a segment of a JSON pointer (RFC 6901).
func escape(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
