package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func readValues(t *testing.T) []value {
	t.Helper()
	values, err := parseValues(read(t, "charts/podtoken/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestReadmeHasTheValues(t *testing.T) {
	readme := read(t, "charts/podtoken/README.md")
	want, err := withTable(readme, readValues(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readme); diff != "" {
		t.Errorf("run `make generate`; README.md (-want +got):\n%s", diff)
	}
}

func TestParseValues(t *testing.T) {
	source := `# About the file.

# A section.
image:
  # Two lines
  # of text.
  registry: ""
  # A list.
  secrets:
    - a

# A value as a whole.
resources:
  limits:
    memory: 1Mi
`
	want := []value{
		{Path: "image.registry", Default: `""`, Description: "Two lines of text."},
		{Path: "image.secrets", Default: `["a"]`, Description: "A list."},
		{Path: "resources", Default: `{"limits":{"memory":"1Mi"}}`, Description: "A value as a whole."},
	}
	got, err := parseValues(source)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestParseValuesRefuses(t *testing.T) {
	tests := map[string]struct{ source, want string }{
		"a value without a comment":     {"# Known.\na: 1\n\nb: 2\n", "b has no comment"},
		"a gap in a section":            {"a:\n  # Known.\n  b: 1\n  c: 2\n", "a.c has no comment"},
		"a comment that stands too far": {"# About the file.\n\na: 1\n", "a has no comment"},
		"a level that is skipped":       {"a:\n    b: 1\n", `line 2: want a key in block style with two blanks per level, got "    b: 1"`},
		"no key":                        {"a\n", `line 1: want a key in block style with two blanks per level, got "a"`},
		"the same key twice":            {"# One.\na: 1\n# Two.\na: 2\n", `key "a" already set in map`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := parseValues(test.source); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestFullValuesDiffer: ci/full-values.yaml changes every value, so that golden/full.yaml shows what each does.
func TestFullValuesDiffer(t *testing.T) {
	var full map[string]any
	if err := yaml.UnmarshalStrict([]byte(read(t, "charts/podtoken/ci/full-values.yaml")), &full); err != nil {
		t.Fatal(err)
	}
	for _, v := range readValues(t) {
		// For the first so that the tag is seen there (webhook.image.digest is set); the others say that there is no cert-manager.
		if v.Path == "sidecar.image.digest" || v.Path == "tls.mode" || strings.HasPrefix(v.Path, "tls.secret.") {
			continue
		}
		encoded, err := json.Marshal(lookup(full, v.Path))
		if err != nil {
			t.Fatal(err)
		}
		if string(encoded) == v.Default {
			t.Errorf("%s has its default, %s", v.Path, v.Default)
		}
	}
}

// TestModesOfTLS: the values that full-values.yaml leaves out are in files of their own.
func TestModesOfTLS(t *testing.T) {
	for file, want := range map[string][]string{"selfmanaged": {"tls.mode"}, "secret": {"tls.mode", "tls.secret.name", "tls.secret.caBundle"}} {
		var set map[string]any
		if err := yaml.UnmarshalStrict([]byte(read(t, "charts/podtoken/ci/"+file+"-values.yaml")), &set); err != nil {
			t.Fatal(err)
		}
		for _, path := range want {
			if value, _ := lookup(set, path).(string); value == "" || value == "certManager" {
				t.Errorf("%s of %s is %q", path, file, value)
			}
		}
	}
}

// onlyInSchema are keys that Helm and parent charts put into the values of a dependency.
var onlyInSchema = []string{"enabled", "global"}

func TestSchemaCoversTheValues(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, "charts/podtoken/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(read(t, "charts/podtoken/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, v := range readValues(t) {
		documented[v.Path] = true
	}

	// Both ways: a value that the schema does not know, and a property that is no value.
	var compare func(path []string, node, values map[string]any)
	compare = func(path []string, node, values map[string]any) {
		properties := child(schema, node, "properties")
		for _, name := range slices.Sorted(maps.Keys(values)) {
			at := append(slices.Clip(path), name)
			if _, known := properties[name]; !known {
				t.Errorf("the schema has no %s", strings.Join(at, "."))
				continue
			}
			if below, isMap := values[name].(map[string]any); isMap && !documented[strings.Join(at, ".")] {
				compare(at, child(schema, properties, name), below)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			_, known := values[name]
			if at := strings.Join(append(slices.Clip(path), name), "."); !known && !slices.Contains(onlyInSchema, at) {
				t.Errorf("the schema has %s, values.yaml does not", at)
			}
		}
	}
	compare(nil, schema, values)
}

// TestSchemaIsClosed: a key that is spelt wrong is an error everywhere, never a setting without effect.
func TestSchemaIsClosed(t *testing.T) {
	var schema any
	if err := json.Unmarshal([]byte(read(t, "charts/podtoken/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch node := node.(type) {
		case []any:
			for _, element := range node {
				walk(path+"[]", element)
			}
		case map[string]any:
			// A type for the keys' values closes a map whose keys are the user's.
			additional, given := node["additionalProperties"]
			if _, isSchema := additional.(map[string]any); node["type"] == "object" && path != ".properties.global" &&
				(!given || additional != false && !isSchema) {
				t.Errorf("%s allows any property", path)
			}
			for name, below := range node {
				walk(path+"."+name, below)
			}
		}
	}
	walk("", schema)
}

// child returns the object below a key, following a reference to the definitions.
func child(schema, node map[string]any, key string) map[string]any {
	below, _ := node[key].(map[string]any)
	if reference, found := below["$ref"].(string); found {
		definitions := schema["definitions"].(map[string]any)
		return definitions[strings.TrimPrefix(reference, "#/definitions/")].(map[string]any)
	}
	return below
}
