// Package docs keeps the documentation true: what the code names must stand in docs/reference.md.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// matches returns the first group of every match in the non-test Go files of a folder.
func matches(t *testing.T, folder, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(data), -1) {
			found = append(found, m[1])
		}
	}
	if len(found) == 0 {
		t.Fatalf("nothing in %s matches %s: the test has to follow the code", folder, pattern)
	}
	return found
}

func TestReferenceNamesEverything(t *testing.T) {
	reference := read(t, "docs/reference.md")
	mustName := func(what, name string) {
		t.Helper()
		if !strings.Contains(reference, name) {
			t.Errorf("docs/reference.md does not name the %s %q", what, name)
		}
	}
	for _, key := range matches(t, "pkg/api", `Annotation\w+\s+= Prefix \+ "([^"]+)"`) {
		if strings.HasSuffix(key, ".") {
			key += "<token>"
		}
		mustName("annotation", "`"+api.Prefix+key+"`")
	}
	for _, key := range []string{api.AnnotationAudienceOf, api.AnnotationExpirationOf, api.AnnotationFileModeOf} {
		mustName("annotation", "`"+key+"<token>`")
	}
	for _, reason := range api.Reasons() {
		mustName("reason", "`"+string(reason)+"`")
	}
	for _, outcome := range matches(t, "pkg/api", `Outcome\w+\s+Outcome = "(\w+)"`) {
		mustName("outcome", "`"+outcome+"`")
	}
	for _, class := range matches(t, "pkg/sidecar", `Class\w+\s+Class = "(\w+)"`) {
		mustName("class of failure", "`"+class+"`")
	}
	for _, metric := range strings.Split(read(t, "internal/admission/testdata/metrics.txt"), "\n") {
		if name, ok := strings.CutPrefix(metric, "# TYPE "); ok {
			mustName("metric", "`"+strings.Fields(name)[0])
		}
	}
	for _, suffix := range matches(t, "internal/config", `"podtoken_" \+ noun \+ "(_\w+)"`) {
		for _, noun := range matches(t, "internal/config", `noun:\s+"(\w+)"`) {
			mustName("metric", "`podtoken_"+noun+suffix)
		}
	}
}

// The controller's metrics, their labels, its events, its flags, and the fields of the policy file.
func TestReferenceNamesTheController(t *testing.T) {
	reference := read(t, "docs/reference.md")
	for _, held := range []struct{ what, folder, pattern, before string }{
		{"metric", "internal/grant", `Name:\s+"(podtoken_\w+)"`, "`"},
		{"metric", "cmd/controller", `Name:\s+"(podtoken_\w+)"`, "`"},
		{"outcome or reason", "internal/grant", `(?:outcome|reason)\w+\s+(?:outcome|reason)\s+= "(\w+)"`, "`"},
		{"event", "internal/grant", `Event\w+\s+= "(\w+)"`, "| `"},
		{"flag", "cmd/controller", `fs\.\w+Var\([^"]+"([a-z-]+)"`, "`--"},
		{"field of the policy file", "internal/policy", "`json:\"(\\w+)\"`", ""},
	} {
		for _, name := range matches(t, held.folder, held.pattern) {
			if !strings.Contains(reference, held.before+name) {
				t.Errorf("docs/reference.md does not name the %s %q", held.what, name)
			}
		}
	}
}

// Every Reason constant is in Reasons(), on which documentation and metrics rely.
func TestReasonsIsComplete(t *testing.T) {
	listed := map[string]bool{}
	for _, reason := range api.Reasons() {
		listed[string(reason)] = true
	}
	for _, reason := range matches(t, "pkg/api", `Reason\w+\s+Reason = "(\w+)"`) {
		if !listed[reason] {
			t.Errorf("api.Reasons() lacks %q", reason)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)

// Links between the documents, and to their headings, lead somewhere.
func TestLinks(t *testing.T) {
	for _, document := range []string{
		"README.md", "docs/reference.md", "docs/security.md", "docs/audit.md", "docs/runbook.md", "charts/podtoken/README.md",
	} {
		for _, m := range link.FindAllStringSubmatch(read(t, document), -1) {
			target, heading := m[1], strings.TrimPrefix(m[2], "#")
			if strings.HasPrefix(target, "http") {
				continue
			}
			path := document
			if target != "" {
				path = filepath.Join(filepath.Dir(document), target)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s links to %q: %v", document, target, err)
				continue
			}
			if heading != "" && !hasHeading(read(t, path), heading) {
				t.Errorf("%s links to %q: %s has no such heading", document, m[0], path)
			}
		}
	}
}

// auditKey is a key below auditAnnotations.
var auditKey = regexp.MustCompile(`(?m)^    - key: (\w+)$`)

var notInAnchors = regexp.MustCompile(`[^a-z0-9 -]`)

func hasHeading(document, anchor string) bool {
	for line := range strings.Lines(document) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			if strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-") == anchor {
				return true
			}
		}
	}
	return false
}
