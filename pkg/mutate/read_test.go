package mutate

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/jsonread"
)

// plainReader reads a pod as ReadPod does, the plain way: encoding/json into a map, object by object.
type plainReader struct{ failed bool }

func (p *plainReader) fields(raw json.RawMessage) map[string]json.RawMessage {
	return plainValue[map[string]json.RawMessage](p, raw)
}

// plainValue is the zero value for JSON that is absent or null.
func plainValue[T any](p *plainReader, raw json.RawMessage) (value T) {
	if raw != nil && json.Unmarshal(raw, &value) != nil {
		p.failed = true
		return *new(T)
	}
	return value
}

func plainList[T any](p *plainReader, raw json.RawMessage, read func(json.RawMessage) T) []T {
	elements := plainValue[[]json.RawMessage](p, raw)
	if elements == nil {
		return nil
	}
	list := make([]T, 0, len(elements))
	for _, element := range elements {
		list = append(list, read(element))
	}
	return list
}

func (p *plainReader) pod(data []byte) *Pod {
	if string(bytes.TrimSpace(data)) == "null" {
		return nil
	}
	pod := new(Pod)
	if len(p.fields(data)) == 0 {
		return pod
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	_, _ = decoder.Token()
	known := false
	for decoder.More() {
		name, _ := decoder.Token()
		var raw json.RawMessage
		_ = decoder.Decode(&raw)
		switch {
		case name == "metadata" && known:
			p.failed = true
		case name == "metadata":
			pod.Metadata, known = p.metadata(raw), true
		case name == "spec" && (!known || asks(pod.Metadata.Annotations)):
			pod.Spec = p.spec(raw)
		}
	}
	return pod
}

func (p *plainReader) metadata(raw json.RawMessage) Metadata {
	f := p.fields(raw)
	m := Metadata{
		Name:         plainValue[string](p, f["name"]),
		GenerateName: plainValue[string](p, f["generateName"]),
		Namespace:    plainValue[string](p, f["namespace"]),
		Labels:       plainValue[map[string]string](p, f["labels"]),
	}
	for name, value := range p.fields(f["annotations"]) {
		if matters(name) {
			if m.Annotations == nil {
				m.Annotations = map[string]string{}
			}
			m.Annotations[name] = plainValue[string](p, value)
		}
	}
	return m
}

func (p *plainReader) spec(raw json.RawMessage) Spec {
	f := p.fields(raw)
	security := p.fields(f["securityContext"])
	return Spec{
		ServiceAccountName: plainValue[string](p, f["serviceAccountName"]),
		Volumes:            plainList(p, f["volumes"], p.volume),
		InitContainers: plainList(p, f["initContainers"], func(raw json.RawMessage) InitContainer {
			c := InitContainer{Container: p.container(raw)}
			if c.Name == "podtoken" {
				c.raw = raw
			}
			return c
		}),
		Containers: plainList(p, f["containers"], p.container),
		SecurityContext: PodSecurityContext{
			RunAsUser: plainValue[*int64](p, security["runAsUser"]), RunAsGroup: plainValue[*int64](p, security["runAsGroup"]), FSGroup: plainValue[*int64](p, security["fsGroup"]),
			AppArmor: plainValue[corev1.AppArmorProfileType](p, p.fields(security["appArmorProfile"])["type"]), Windows: isSet(security["windowsOptions"]),
		},
		RestartPolicy:         plainValue[corev1.RestartPolicy](p, f["restartPolicy"]),
		Resources:             p.resources(f["resources"]),
		HostNetwork:           plainValue[bool](p, f["hostNetwork"]),
		ShareProcessNamespace: plainValue[bool](p, f["shareProcessNamespace"]),
		OS:                    plainValue[string](p, p.fields(f["os"])["name"]),
		NodeSelector:          plainValue[map[string]string](p, f["nodeSelector"]),
		RequiredNodeAffinity: plainValue[*corev1.NodeSelector](p,
			p.fields(p.fields(f["affinity"])["nodeAffinity"])["requiredDuringSchedulingIgnoredDuringExecution"]),
	}
}

func (p *plainReader) volume(raw json.RawMessage) Volume {
	f := p.fields(raw)
	v := Volume{Name: plainValue[string](p, f["name"])}
	p.inOrder(raw, func(name string, value json.RawMessage) {
		switch {
		case name == "name" || !isSet(value):
		case name == "emptyDir" || name == "projected":
			v.Source = name
		case value[0] == '{':
			v.Source, v.ReadOnly = name, plainValue[bool](p, p.fields(value)["readOnly"])
		}
	})
	if v.Name == "podtoken" || v.Name == "podtoken-api" {
		v.EmptyDir = plainValue[*corev1.EmptyDirVolumeSource](p, f["emptyDir"])
		v.Projected = plainValue[*corev1.ProjectedVolumeSource](p, f["projected"])
	}
	return v
}

func (p *plainReader) container(raw json.RawMessage) Container {
	f := p.fields(raw)
	security := p.fields(f["securityContext"])
	return Container{
		Name: plainValue[string](p, f["name"]),
		Env:  p.variables(f["env"]),
		Ports: plainList(p, f["ports"], func(raw json.RawMessage) ContainerPort {
			f := p.fields(raw)
			return ContainerPort{plainValue[int32](p, f["containerPort"]), plainValue[corev1.Protocol](p, f["protocol"])}
		}),
		Resources: p.resources(f["resources"]),
		VolumeMounts: plainList(p, f["volumeMounts"], func(raw json.RawMessage) VolumeMount {
			f := p.fields(raw)
			return VolumeMount{
				plainValue[string](p, f["name"]), plainValue[string](p, f["mountPath"]), plainValue[bool](p, f["readOnly"]),
				plainValue[string](p, f["subPath"]), plainValue[string](p, f["subPathExpr"]),
			}
		}),
		SecurityContext: SecurityContext{
			RunAsUser: plainValue[*int64](p, security["runAsUser"]), RunAsGroup: plainValue[*int64](p, security["runAsGroup"]),
			SELinuxOptions:    plainValue[*corev1.SELinuxOptions](p, security["seLinuxOptions"]),
			AddedCapabilities: p.strings(p.fields(security["capabilities"])["add"]), DroppedCapabilities: p.strings(p.fields(security["capabilities"])["drop"]),
			Privileged: plainValue[bool](p, security["privileged"]), Windows: isSet(security["windowsOptions"]),
		},
		RestartPolicy:          plainValue[corev1.ContainerRestartPolicy](p, f["restartPolicy"]),
		TerminationMessagePath: plainValue[string](p, f["terminationMessagePath"]),
	}
}

func (p *plainReader) strings(raw json.RawMessage) []string {
	return plainList(p, raw, func(raw json.RawMessage) string { return plainValue[string](p, raw) })
}

// isSet reports whether there is a value that is not null.
func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// inOrder calls f for each field of an object as it stands in the document.
func (p *plainReader) inOrder(raw json.RawMessage, f func(name string, value json.RawMessage)) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return // fields has found fault with it
	}
	for decoder.More() {
		name, _ := decoder.Token()
		var value json.RawMessage
		_ = decoder.Decode(&value)
		text, _ := name.(string)
		f(text, value)
	}
}

// variables are not looked into: see checkVariables.
func (p *plainReader) variables(raw json.RawMessage) Variables {
	if plainValue[[]json.RawMessage](p, raw) == nil {
		return Variables{}
	}
	return Variables{string(raw)}
}

// checkVariables checks that each variable of a name that can be asked for is found, with its value, and no others.
func checkVariables(t *testing.T, v Variables) {
	t.Helper()
	p := &plainReader{}
	elements := plainValue[[]json.RawMessage](p, json.RawMessage(v.raw))
	if v.raw == "" {
		elements, p.failed = nil, false
	}
	first := map[string]string{}
	for _, element := range elements {
		f := p.fields(element)
		name, value := plainValue[string](p, f["name"]), plainValue[string](p, f["value"])
		if _, seen := first[name]; !seen && envName.MatchString(name) {
			first[name] = value
		}
	}
	if p.failed {
		return // Elements of other types, which no API server takes.
	}
	if v.Empty() != (len(elements) == 0) {
		t.Errorf("%s: empty: %t", v.raw, v.Empty())
	}
	for name, want := range first {
		if got, found := (&environment{Variables: v}).value(name); !found || got != want {
			t.Errorf("%s: the variable %q is %q, %t, want %q", v.raw, name, got, found, want)
		}
	}
	if _, there := first["NOT_THERE"]; !there {
		if (&environment{Variables: v}).has("NOT_THERE") {
			t.Errorf("%s: a variable was found that is not there", v.raw)
		}
	}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p *plainReader) resources(raw json.RawMessage) Resources {
	f := p.fields(raw)
	amounts := func(raw json.RawMessage) Amounts {
		f := p.fields(raw)
		quantity := func(name string) *resource.Quantity {
			raw, ok := f[name]
			if !ok {
				return nil
			}
			q := plainValue[resource.Quantity](p, raw)
			return &q
		}
		return Amounts{CPU: quantity("cpu"), Memory: quantity("memory"), Any: len(f) > 0}
	}
	return Resources{Requests: amounts(f["requests"]), Limits: amounts(f["limits"])}
}

// readingSeeds are texts in which readers of JSON differ: names that appear twice or in another case, escapes in names and
// values, halves of surrogate pairs, invalid UTF-8, numbers of all forms, null everywhere, depth, blanks, garbage behind.
func readingSeeds(tb testing.TB) []string {
	tb.Helper()
	const annotated = `{"metadata": {"annotations": {"podtoken.dev/audience": "a"}}, "spec": `
	seeds := []string{
		``, ` `, `null`, `{}`, `[]`, `1`, `{`, `{"spec"`, `{"spec":`, `{"spec":}`, `{"spec":{}]`, `{} {}`, `{},`, "\ufeff{}", `{"a":1,}`, `{"a" 1}`, `{'a':1}`,
		`{"spec": {"containers": [{"name": "a"}], "containers": [{"name": "b"}, null]}}`,
		`{"spec": {"containers": [{"env": [{"name": "A", "value": "x"}], "env": null}]}, "spec": {"hostNetwork": true}}`,
		`{"spec": {"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "\u0042", "value": "\n"}, {"Name": "C"}, {"value": "D"}, {"name": "E", "valueFrom": {"name": "F"}}, null]}, {"env": [ ]}, {"env": {}}]}}`,
		`{"spec": {"Containers": [{"name": "a"}], "HOSTNETWORK": true, "hostNetwor\u212a": true}}`,
		`{"metadata": {"labels": {"a": "1", "a": "2", "\u0061": "3"}, "labels": {"b": null}}}`,
		`{"metadata": {"annotations": {"podtoken.dev\/audience": "\ud83d\ude00 \ud83d \ude00\u0041 \ud800\ud800", "other": [1]}}}`,
		`{"metadata": {"annotations": {"other": "x"}}, "spec": {"containers": 7}}`,
		`{"metadata": {}, "spec": {"containers": 7}, "metadata": {"annotations": {"podtoken.dev/audience": "a"}}}`,
		`{"spec": {"containers": [{"name": "a"}]}, "metadata": {"annotations": {"podtoken.dev/audience": "a"}}}`,
		"{\"metadata\": {\"name\": \"\xff\xfe\", \"labels\": {\"\xff\": \"\xc3\x28\"}}}",
		"{\"metadata\": {\"name\": \"a\x00b\"}}", "{\"metadata\": {\"name\": \"a\nb\"}}", `{"metadata": {"name": "\x"}}`, `{"metadata": {"name": "\u12g4"}}`,
		"{\t\"spec\"\r\n:\n{ \"hostNetwork\" : true , \"os\" : { \"name\" : \"windows\" } }\n}\n",
		`{"metadata": ` + strings.Repeat(`{"a":`, 5000) + `1` + strings.Repeat(`}`, 5000) + `}`,
		`{"metadata": ` + strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000) + `}`,
		annotated + `{"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a"}]}]}}}}}`,
		annotated + `{"volumes": [{"emptyDir": {"medium": 1}, "name": "data"}, {"emptyDir": {"sizeLimit": "1Mi"}, "name": "podtoken"}, {"name": "podtoken-api", "projected": "x"}]}}`,
		annotated + `{"initContainers": [ {"name": "podtoken", "future": [1, {"a": null}]} , {"name": "podtoken"}], "nodeSelector": {"a": 1}}}`,
	}
	for _, number := range []string{`0`, `-0`, `1`, `1.0`, `1e3`, `1E-2`, `01`, `+1`, `.5`, `1.`, `-`, `9223372036854775807`, `9223372036854775808`, `2147483648`, `"1"`, `null`, `true`, `Infinity`, `1e999`} {
		seeds = append(seeds, annotated+`{"securityContext": {"runAsUser": `+number+`}, "containers": [{"ports": [{"containerPort": `+number+`}], `+
			`"resources": {"limits": {"cpu": `+number+`, "x": `+number+`}}, "securityContext": {"runAsUser": `+number+`}, "volumeMounts": [{"readOnly": `+number+`}]}]}}`)
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no golden pods: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for _, section := range txtar.Parse(data).Files {
			if section.Name == sectionPod || section.Name == sectionWantPod {
				pod, err := yaml.YAMLToJSON(section.Data)
				if err != nil {
					tb.Fatal(err)
				}
				seeds = append(seeds, string(pod))
			}
		}
	}
	return seeds
}

// FuzzRead: ReadPod takes what encoding/json takes, reads what it reads, and finds fault with what it finds fault with.
func FuzzRead(f *testing.F) {
	for _, seed := range readingSeeds(f) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got *Pod
		before := bytes.Clone(data)
		err := jsonread.Document(data, func(r *jsonread.Reader) { got = ReadPod(r) })
		if !bytes.Equal(before, data) {
			t.Fatal("the document was changed")
		}
		if _, syntax := errors.AsType[*jsonread.SyntaxError](err); syntax == json.Valid(data) {
			t.Fatalf("encoding/json says that the text is JSON: %t; we say: %v", json.Valid(data), err)
		} else if syntax {
			return
		}
		plain := &plainReader{}
		want := plain.pod(data)
		if plain.failed != (err != nil) {
			t.Fatalf("the plain reader found fault: %t; we say: %v", plain.failed, err)
		}
		if plain.failed {
			return // Where the fault is, the rest may be zero in one and half of the value in the other.
		}
		if got != nil {
			for _, c := range got.Spec.Containers {
				checkVariables(t, c.Env)
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(InitContainer{}, Variables{}), emptyMaps); diff != "" {
			t.Errorf("another pod (-encoding/json +ours):\n%s", diff)
		}
	})
}

// emptyMaps: whether a map is empty or absent makes no difference to any decision, whether a list is does.
var emptyMaps = cmp.FilterValues(func(a, b map[string]string) bool { return len(a) == 0 && len(b) == 0 }, cmp.Comparer(func(_, _ map[string]string) bool { return true }))
