package mutate

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// elementDifference looks for want in the list: it must be there, and nothing else under its name.
func elementDifference[T any](field string, list []T, want T, name func(T) string) string {
	found := false
	for _, element := range list {
		if name(element) != name(want) {
			continue
		}
		if text := valueDifference(fmt.Sprintf("%s[%s]", field, name(want)), element, want); text != "" {
			return text
		}
		found = true
	}
	if !found {
		return fmt.Sprintf("%s has no %s", field, name(want))
	}
	return ""
}

// valueDifference names the first field in which the JSON of two values differs, with both values; empty for none.
func valueDifference(field string, got, want any) string {
	if reflect.DeepEqual(got, want) {
		return "" // The usual case, without the detour.
	}
	decode := func(value any) (decoded any) {
		if err := json.Unmarshal(mustJSON(value), &decoded); err != nil {
			panic(err) // It was just encoded.
		}
		return decoded
	}
	return jsonDifference(field, decode(got), decode(want))
}

func jsonDifference(field string, got, want any) string {
	gotMap, gotIsMap := got.(map[string]any)
	wantMap, wantIsMap := want.(map[string]any)
	if gotIsMap && wantIsMap {
		union := maps.Clone(gotMap)
		maps.Copy(union, wantMap)
		for _, key := range slices.Sorted(maps.Keys(union)) {
			if text := jsonDifference(strings.TrimPrefix(field+"."+key, "."), gotMap[key], wantMap[key]); text != "" {
				return text
			}
		}
		return ""
	}
	gotList, gotIsList := got.([]any)
	wantList, wantIsList := want.([]any)
	if gotIsList && wantIsList && len(gotList) == len(wantList) {
		for i := range gotList {
			if text := jsonDifference(fmt.Sprintf("%s[%d]", field, i), gotList[i], wantList[i]); text != "" {
				return text
			}
		}
		return ""
	}
	if reflect.DeepEqual(got, want) {
		return ""
	}
	gotText, gotIsText := got.(string)
	wantText, wantIsText := want.(string)
	if gotIsText && wantIsText {
		// Long texts, as the arguments of tokens, may have the difference far from their beginning.
		skip := commonPrefix(gotText, wantText) - maxQuotedBytes/2
		if skip > 0 && len(wantText) > maxQuotedBytes {
			return fmt.Sprintf("%s is ...%s, not ...%s", field, quote(gotText[skip:]), quote(wantText[skip:]))
		}
	}
	return fmt.Sprintf("%s is %s, not %s", field, shown(got), shown(want))
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func shown(value any) string {
	switch value := value.(type) {
	case nil:
		return "absent"
	case string:
		return quote(value)
	}
	if text := string(mustJSON(value)); text != "null" { // of a nil pointer, too
		return cut(text)
	}
	return "absent"
}

// volumeDifference compares a volume of our name with ours.
func volumeDifference(got Volume, want corev1.Volume) string {
	type source struct {
		EmptyDir  *corev1.EmptyDirVolumeSource  `json:"emptyDir,omitempty"`
		Projected *corev1.ProjectedVolumeSource `json:"projected,omitempty"`
	}
	return valueDifference("", source{got.EmptyDir, got.Projected}, source{want.EmptyDir, want.Projected})
}

// containerPath is a path in a container as the kubelet takes it: relative ones are below the root
// (k8s.io/kubernetes@v1.37.2/pkg/kubelet/kubelet_pods.go, makeMounts).
func containerPath(p string) string { return path.Clean("/" + p) }

// below reports whether a path in a container is the directory or inside of it.
func below(p, dir string) bool {
	p, dir = containerPath(p), containerPath(dir)
	rest, found := strings.CutPrefix(p, dir)
	return dir == "/" || found && (rest == "" || rest[0] == '/')
}
