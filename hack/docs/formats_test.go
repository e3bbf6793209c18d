package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// docs/formats.md has every function of templates and no other, every format, and every variable that a preset sets.
func TestFormatsGuideIsComplete(t *testing.T) {
	guide := read(t, "docs/formats.md")
	var documented []string
	for _, cells := range rows(section(t, guide, "## Anything else: templates")) {
		for _, name := range codes(cells[0]) {
			if !strings.HasPrefix(name, ".") {
				documented = append(documented, name)
			}
		}
	}
	if got := sorted(documented); !slices.Equal(got, tokenfile.Functions()) {
		t.Errorf("docs/formats.md has the functions %q, the code %q", got, tokenfile.Functions())
	}
	reference := read(t, "docs/reference.md")
	for _, format := range api.Formats() {
		if format != api.FormatRaw && !strings.Contains(guide, "`format.<token>: "+format+"`") {
			t.Errorf("docs/formats.md does not name the format %q", format)
		}
		if !strings.Contains(section(t, reference, "## Formats and presets"), "| `"+format+"` |") {
			t.Errorf("docs/reference.md does not have the format %q", format)
		}
	}
	for _, variable := range slices.Concat(matches(t, "pkg/mutate", `setenv\("(\w+)"`), matches(t, "pkg/mutate", `variable\{name: "(\w+)"`),
		matches(t, "pkg/mutate", `name: "([A-Z_]+)"`)) {
		for _, document := range []string{guide, section(t, reference, "## Formats and presets")} {
			if !strings.Contains(document, "`"+variable+"`") {
				t.Errorf("a document does not name the variable %s", variable)
			}
		}
	}
}

// The versions of clients in the guide are those that the tests run.
func TestClientsInTheGuide(t *testing.T) {
	modules := read(t, "e2e/clients/go.mod")
	guide := section(t, read(t, "docs/formats.md"), "## Clients that were run")
	found := 0
	for _, match := range regexp.MustCompile("`([A-Za-z0-9./-]+)` (v[0-9]+\\.[0-9]+\\.[0-9]+)").FindAllStringSubmatch(guide, -1) {
		found++
		if !strings.Contains(modules, "\t"+match[1]+" "+match[2]+"\n") {
			t.Errorf("docs/formats.md has %s %s, e2e/clients/go.mod another version", match[1], match[2])
		}
	}
	if found < 8 {
		t.Errorf("docs/formats.md has only %d modules of clients", found)
	}
}

// The keys of a profile in the guide exist.
func TestProfileInTheGuide(t *testing.T) {
	text := section(t, read(t, "docs/formats.md"), "## Profiles: settings that a platform team writes once")
	known := matches(t, "pkg/api", `Annotation\w+\s+= Prefix \+ "([^".]+)`)
	found := 0
	for line := range strings.Lines(text) {
		key, _, ok := strings.Cut(strings.TrimSpace(line), ": ")
		base, _, suffixed := strings.Cut(key, ".")
		if !ok || !suffixed || !strings.HasPrefix(line, "        ") || strings.Contains(base, "/") || strings.HasPrefix(base, "podtoken") {
			continue
		}
		found++
		if !slices.Contains(known, base) {
			t.Errorf("a profile has the key %q, which is no annotation's", key)
		}
	}
	if found < 5 {
		t.Errorf("only %d keys were found", found)
	}
}
