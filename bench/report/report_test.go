package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplaceKeepsWhatPeopleWrote(t *testing.T) {
	document := filepath.Join(t.TempDir(), "doc.md")
	text := "before\n<!-- bench:a -->\nold\n<!-- /bench:a -->\nbetween\n<!-- bench:b -->\n<!-- /bench:b -->\nafter\n"
	if err := os.WriteFile(document, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"b", "a", "a"} {
		if err := Replace(document, section, "| table of "+section+" |\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	want := "before\n<!-- bench:a -->\n\n| table of a |\n\n<!-- /bench:a -->\nbetween\n<!-- bench:b -->\n\n| table of b |\n\n<!-- /bench:b -->\nafter\n"
	if string(got) != want {
		t.Errorf("got\n%s", got)
	}
	if err := Replace(document, "c", "x"); err == nil || !strings.Contains(err.Error(), `section "c"`) || !strings.Contains(err.Error(), "<!-- bench:c -->") {
		t.Errorf("a section without a place: %v", err)
	}
}

// Every command's table has its place.
func TestTheDocumentHasEverySection(t *testing.T) {
	content, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(copied, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"admission", "sidecar", "pod", "podstart", "scale"} {
		if err := Replace(copied, section, "table"); err != nil {
			t.Error(err)
		}
	}
}

func TestSample(t *testing.T) {
	for _, c := range []struct {
		sample      Sample
		median, p99 float64
		spread      string
	}{
		{nil, 0, 0, "–"},
		{Sample{3}, 3, 3, "3.0 [3.0–3.0]"},
		{Sample{9, 1, 5}, 5, 9, "5.0 [1.0–9.0]"},
		{Sample{4, 1, 3, 2}, 2.5, 4, "2.5 [1.0–4.0]"},
	} {
		if m, p, s := c.sample.Median(), c.sample.Percentile(99), c.sample.Spread(1); m != c.median || p != c.p99 || s != c.spread {
			t.Errorf("%v: %v, %v, %q", c.sample, m, p, s)
		}
	}
}

func TestTable(t *testing.T) {
	table := Table{Head: []string{"", "ms", "MB"}}
	table.Row("floor", "1.0", "2.0")
	if got, want := table.String(), "|  | ms | MB |\n|---|---:|---:|\n| floor | 1.0 | 2.0 |\n"; got != want {
		t.Errorf("got\n%s", got)
	}
}
