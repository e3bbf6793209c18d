package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// templates are where the kinds of Kubernetes' own have their pod template. A pod is its own.
var templates = map[string][]string{
	"v1 Pod":                   {},
	"v1 PodTemplate":           {"template"},
	"v1 ReplicationController": {"spec", "template"},
	"apps/v1 Deployment":       {"spec", "template"},
	"apps/v1 StatefulSet":      {"spec", "template"},
	"apps/v1 DaemonSet":        {"spec", "template"},
	"apps/v1 ReplicaSet":       {"spec", "template"},
	"batch/v1 Job":             {"spec", "template"},
	"batch/v1 CronJob":         {"spec", "jobTemplate", "spec", "template"},
}

// Kinds are the kinds with pods in them, as "apps/v1 Deployment".
func Kinds() []string {
	kinds := make([]string, 0, len(templates))
	for kind := range templates {
		kinds = append(kinds, kind)
	}
	return kinds
}

// Pod is a pod, or the pod template of a workload.
type Pod struct {
	document *Document
	// holder has metadata and spec of the pod, above is what has the template in it, from the outermost on.
	holder map[string]any
	above  []map[string]any

	APIVersion, Kind string
	// Namespace and Name are those of the object; either may be empty.
	Namespace, Name string
	// Template is the path of the template, as "spec.template"; empty for a pod.
	Template string
}

// Parse returns the pods of one object in JSON.
func Parse(object []byte) ([]*Pod, error) {
	decoded, err := decode(object)
	if err != nil {
		return nil, err
	}
	return (&Document{object: decoded}).Pods()
}

// Pods returns the pods and pod templates of a document, those in lists too.
func (d *Document) Pods() ([]*Pod, error) {
	pods, err := d.podsIn(d.object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Source, err)
	}
	return pods, nil
}

func (d *Document) podsIn(object map[string]any) ([]*Pod, error) {
	apiVersion, kind := text(object, "apiVersion"), text(object, "kind")
	if strings.HasSuffix(kind, "List") {
		return d.podsOfList(object, apiVersion, strings.TrimSuffix(kind, "List"))
	}
	path, ok := templates[apiVersion+" "+kind]
	if !ok {
		return nil, nil
	}
	pod := &Pod{
		document: d, holder: object, APIVersion: apiVersion, Kind: kind, Template: strings.Join(path, "."),
		Namespace: text(object, "metadata", "namespace"), Name: text(object, "metadata", "name"),
	}
	if pod.Name == "" && text(object, "metadata", "generateName") != "" {
		pod.Name = text(object, "metadata", "generateName") + "*"
	}
	for i, key := range path {
		below, ok := pod.holder[key].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %s is missing or not an object", pod, strings.Join(path[:i+1], "."))
		}
		pod.above, pod.holder = append(pod.above, pod.holder), below
	}
	if err := pod.checkTexts(); err != nil {
		return nil, fmt.Errorf("%s: %w", pod, err)
	}
	return []*Pod{pod}, nil
}

// checkTexts finds labels and annotations that are no texts, which the API server would refuse: mostly it is a number or a truth
// value without quotation marks.
func (p *Pod) checkTexts() error {
	metadata, _ := p.holder["metadata"].(map[string]any)
	for _, field := range []string{"annotations", "labels"} {
		values, _ := metadata[field].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			what := ""
			switch value := values[key].(type) {
			case json.Number:
				what = "the number " + value.String()
			case bool:
				what = fmt.Sprintf("the truth value %t", value)
			case []any:
				what = "a list"
			case map[string]any:
				what = "a mapping"
			default:
				continue // a text, or nothing, which is an empty one
			}
			return fmt.Errorf("%s[%q] is %s: it has to be a text, put it in quotation marks", p.path("metadata."+field), key, what)
		}
	}
	return nil
}

// path of a field of the pod, in the object.
func (p *Pod) path(field string) string {
	if p.Template == "" {
		return field
	}
	return p.Template + "." + field
}

// Annotated returns the objects of a document that have no pods that Pods knows, and annotations with the prefix all the same,
// anywhere in them: as "Rollout payments/app".
func (d *Document) Annotated(prefix string) []string {
	var names []string
	var visit func(object map[string]any)
	visit = func(object map[string]any) {
		if items, ok := object["items"].([]any); ok && strings.HasSuffix(text(object, "kind"), "List") {
			for _, item := range items {
				if below, ok := item.(map[string]any); ok && text(below, "kind") != "" {
					visit(below)
				}
			}
			return
		}
		if _, known := templates[text(object, "apiVersion")+" "+text(object, "kind")]; !known && annotated(object, prefix) {
			named := Pod{Kind: text(object, "kind"), Namespace: text(object, "metadata", "namespace"), Name: text(object, "metadata", "name")}
			names = append(names, named.String())
		}
	}
	visit(d.object)
	return names
}

func annotated(value any, prefix string) bool {
	switch value := value.(type) {
	case []any:
		return slices.ContainsFunc(value, func(element any) bool { return annotated(element, prefix) })
	case map[string]any:
		for key := range annotations(value) {
			if strings.HasPrefix(key, prefix) {
				return true
			}
		}
		for _, element := range value {
			if annotated(element, prefix) {
				return true
			}
		}
	}
	return false
}

// podsOfList takes the kind from the list where its items have none, as those of typed lists.
func (d *Document) podsOfList(list map[string]any, apiVersion, kind string) ([]*Pod, error) {
	items, ok := list["items"].([]any)
	if !ok && list["items"] != nil {
		return nil, fmt.Errorf("items of the %sList is not a list", kind)
	}
	var pods []*Pod
	for i, item := range items {
		object, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("items[%d] of the %sList is not an object", i, kind)
		}
		typed, isTyped := object, text(object, "kind") == "" && kind != ""
		if isTyped {
			typed = map[string]any{"apiVersion": apiVersion, "kind": kind}
			for key, value := range object {
				typed[key] = value
			}
		}
		found, err := d.podsIn(typed)
		if err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		for _, pod := range found {
			if isTyped && pod.Template == "" {
				pod.holder = object // and not the copy
			}
		}
		pods = append(pods, found...)
	}
	return pods, nil
}

// String names the object, as "Deployment payments/app".
func (p *Pod) String() string {
	name := p.Name
	if name == "" {
		name = "without a name"
	}
	if p.Namespace != "" {
		name = p.Namespace + "/" + name
	}
	return p.Kind + " " + name
}

// JSON is the pod, or the pod that would be made from the template.
func (p *Pod) JSON() ([]byte, error) {
	pod := map[string]any{"apiVersion": "v1", "kind": "Pod"}
	for key, value := range p.holder {
		pod[key] = value
	}
	return json.Marshal(pod)
}

// Replace puts a pod in the place of the one that JSON returned.
func (p *Pod) Replace(pod []byte) error {
	var changed map[string]any
	decoder := json.NewDecoder(bytes.NewReader(pod))
	decoder.UseNumber()
	if err := decoder.Decode(&changed); err != nil {
		return fmt.Errorf("decoding the changed pod: %w", err)
	}
	for key, value := range changed {
		if _, had := p.holder[key]; !had && (key == "apiVersion" || key == "kind") {
			continue // it has its own in templates and typed lists
		}
		p.holder[key] = value
	}
	p.document.changed = true
	return nil
}

// Annotations of the pod or template.
func (p *Pod) Annotations() map[string]string { return annotations(p.holder) }

// AnnotationsAbove returns the annotations of what has the template in it, which its pods do not get.
func (p *Pod) AnnotationsAbove() map[string]string {
	all := map[string]string{}
	for _, object := range p.above {
		for key, value := range annotations(object) {
			all[key] = value
		}
	}
	return all
}

func annotations(object map[string]any) map[string]string {
	found := map[string]string{}
	metadata, _ := object["metadata"].(map[string]any)
	values, _ := metadata["annotations"].(map[string]any)
	for key, value := range values {
		found[key], _ = value.(string)
	}
	return found
}

// ServiceAccount of the pod.
func (p *Pod) ServiceAccount() string {
	if name := text(p.holder, "spec", "serviceAccountName"); name != "" {
		return name
	}
	return "default"
}
