package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documents and the workflow name the versions of Kubernetes for which the test cluster has module files, and no others.
func TestVersionsOfKubernetes(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "e2e/cluster/components/kubernetes/*.mod"))
	if err != nil || len(files) < 2 {
		t.Fatalf("got %q, %v: want module files", files, err)
	}
	var minors, older, releases []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		release := regexp.MustCompile(`k8s\.io/kubernetes v(1\.\d+)\.(\d+)`).FindStringSubmatch(string(content))
		if release == nil {
			t.Fatalf("%s requires no Kubernetes", file)
		}
		minors, releases = append(minors, release[1]), append(releases, release[1]+"."+release[2])
		if filepath.Base(file) != "go.mod" {
			older = append(older, release[1])
		}
	}
	_, section, found := strings.Cut(read(t, "docs/installation.md"), "\n### Versions of Kubernetes\n")
	if !found {
		t.Fatal("docs/installation.md has no section about the versions of Kubernetes")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	same := func(what string, pattern *regexp.Regexp, text string, want []string) {
		t.Helper()
		got := pattern.FindAllString(text, -1)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(slices.Compact(got), slices.Compact(slices.Clone(want))) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	same("releases in docs/installation.md", regexp.MustCompile(`\b1\.\d+\.\d+\b`), section, releases)
	readme := regexp.MustCompile(`\[tested\]\([^)]*\) on ([^)]*)\)`).FindStringSubmatch(read(t, "README.md"))
	if readme == nil {
		t.Fatal("README.md does not say which versions are tested")
	}
	same("versions in README.md", regexp.MustCompile(`1\.\d+`), readme[1], minors)
	matrix := regexp.MustCompile(`kubernetes: \[(.*)\]`).FindStringSubmatch(read(t, ".github/workflows/ci.yaml"))
	if matrix == nil {
		t.Fatal("the workflow runs on no versions")
	}
	same("versions in the workflow", regexp.MustCompile(`1\.\d+`), matrix[1], older)

	// What the chart allows is what the document says.
	chart := regexp.MustCompile(`kubeVersion: ">=(1\.\d+)\.0-0"`).FindStringSubmatch(read(t, "charts/podtoken/Chart.yaml"))
	if chart == nil {
		t.Fatal("the chart has no kubeVersion")
	}
	for _, document := range []string{"README.md", "docs/installation.md", "charts/podtoken/README.md"} {
		if !strings.Contains(read(t, document), "Kubernetes "+chart[1]+" or later") {
			t.Errorf("%s does not say %q, which is the chart's kubeVersion", document, "Kubernetes "+chart[1]+" or later")
		}
	}
}
