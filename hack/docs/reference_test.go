// Package docs keeps the documentation true: what the code names must stand in docs/reference.md.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		{"metric", "internal/servingcert", `Name:\s+"(podtoken_\w+)"`, "`"},
		{"step", "internal/servingcert", `Step\w+\s+Step = "(\w+)"`, "`"},
		{"metric", "internal/httpserver", `Name:\s+"(podtoken_\w+)"`, "`"},
		{"reason", "internal/httpserver", `reason\w+\s+= "(\w+)"`, "| `"},
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

// documents returns all Markdown files of the repository.
func documents(t *testing.T) (found []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "testdata"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			found = append(found, strings.TrimPrefix(path, root+"/"))
		}
		return nil
	})
	if err != nil || len(found) < 10 {
		t.Fatalf("found only %q, %v", found, err)
	}
	return found
}

var link = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)

// Links between the documents, and to their headings, lead somewhere.
func TestLinks(t *testing.T) {
	for _, document := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(prose(read(t, document)), -1) {
			target, heading := m[1], strings.TrimPrefix(m[2], "#")
			if strings.HasPrefix(target, "https://") {
				continue
			}
			path := document
			if target != "" {
				path = filepath.Join(filepath.Dir(document), target)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil || strings.HasPrefix(path, "..") {
				t.Errorf("%s links to %q: %v", document, target, err)
				continue
			}
			if heading != "" && !anchors(t, path)[heading] {
				t.Errorf("%s links to %q: %s has no such heading", document, m[0], path)
			}
		}
	}
}

// A list of contents at the top of a document has every heading below it, in order.
func TestContents(t *testing.T) {
	for _, document := range documents(t) {
		text := prose(read(t, document))
		var listed, headings []string
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if title, ok := strings.CutPrefix(line, "## "); ok {
				headings = append(headings, title)
			} else if m := contentsLine.FindStringSubmatch(line); m != nil && len(headings) == 0 {
				listed = append(listed, m[1])
			}
		}
		if diff := cmp.Diff(headings, listed); diff != "" && len(listed) > 0 {
			t.Errorf("%s (-headings +contents):\n%s", document, diff)
		}
	}
}

var contentsLine = regexp.MustCompile(`^- \[(.+)\]\(#[^)]+\)$`)

// The README leads to every document.
func TestReadmeLinksEveryDocument(t *testing.T) {
	readme := read(t, "README.md")
	for _, document := range documents(t) {
		if document != "README.md" && !strings.Contains(readme, "]("+document) {
			t.Errorf("README.md does not link to %s", document)
		}
	}
}

// auditKey is a key below auditAnnotations.
var auditKey = regexp.MustCompile(`(?m)^    - key: (\w+)$`)

var notInAnchors = regexp.MustCompile(`[^a-z0-9 _-]`)

// prose is a document without its blocks of code: a comment in one is no heading, and brackets are no link.
func prose(document string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(document) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// anchors returns the names by which the headings of a document can be linked to.
func anchors(t *testing.T, document string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for line := range strings.Lines(prose(read(t, document))) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			anchor := strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
			if found[anchor] {
				t.Errorf("%s has two headings %q: links to it lead to the first", document, anchor)
			}
			found[anchor] = true
		}
	}
	return found
}
