package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
)

// section returns what stands below a heading, up to the next one of its level or a higher one.
func section(t *testing.T, document, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut("\n"+document, "\n"+heading+"\n")
	if !found {
		t.Fatalf("there is no heading %q", heading)
	}
	level := strings.IndexByte(heading, ' ')
	var b strings.Builder
	for line := range strings.Lines(rest) {
		if hashes := strings.IndexByte(line, ' '); hashes > 0 && hashes <= level && strings.Trim(line[:hashes], "#") == "" {
			break
		}
		b.WriteString(line)
	}
	return b.String()
}

// rows returns the cells of the tables in a text, without the heads of the tables.
func rows(text string) [][]string {
	var all [][]string
	head := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			head = true
		case strings.HasPrefix(line, "|---"):
			head = false
		case !head:
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			all = append(all, cells)
		}
	}
	return all
}

var code = regexp.MustCompile("`([^`]*)`")

// codes returns what stands in backticks.
func codes(text string) (found []string) {
	for _, m := range code.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

func sorted(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return words
}

// The tables of all reasons have every reason that the code has, once, and no other.
func TestTroubleshootingHasAllReasons(t *testing.T) {
	document := read(t, "docs/troubleshooting.md")
	var reasons, classes []string
	for _, reason := range api.Reasons() {
		reasons = append(reasons, string(reason))
	}
	for _, class := range sidecar.Classes() {
		classes = append(classes, string(class))
	}
	if diff := cmp.Diff(sorted(matches(t, "pkg/sidecar", `Class\w+\s+Class = "(\w+)"`)), sorted(classes)); diff != "" {
		t.Errorf("sidecar.Classes() (-constants +listed):\n%s", diff)
	}
	for heading, want := range map[string][]string{
		"### Reasons of the webhook": reasons,
		"### Reasons of the controller": append(matches(t, "internal/grant", `reason\w+\s+reason\s+= "(\w+)"`),
			matches(t, "internal/grant", `Event\w+\s+= "(\w+)"`)...),
		"### Reasons of the sidecar": classes,
	} {
		var got []string
		for _, cells := range rows(section(t, document, heading)) {
			got = append(got, codes(cells[0])...)
			if len(cells) < 3 {
				t.Errorf("%s: %q has no cause and remedy", heading, cells)
			}
		}
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s (-code +document):\n%s", heading, diff)
		}
	}
}

// The outcomes beside the reasons are those with which the code uses them, as docs/reference.md lists them.
func TestTroubleshootingHasTheOutcomes(t *testing.T) {
	reference := read(t, "docs/reference.md")
	for heading, table := range map[string]string{
		"### Reasons of the webhook":    section(t, reference, "## What the webhook answers"),
		"### Reasons of the controller": section(t, reference, "## Metrics and events of the controller"),
	} {
		want := map[string][]string{}
		for _, cells := range rows(table) {
			if len(cells) != 2 || strings.HasPrefix(cells[0], "`podtoken_") {
				continue
			}
			for _, reason := range codes(cells[1]) {
				want[reason] = append(want[reason], codes(cells[0])...)
			}
		}
		got := map[string][]string{}
		for _, cells := range rows(section(t, read(t, "docs/troubleshooting.md"), heading)) {
			if len(cells) == 4 {
				got[codes(cells[0])[0]] = append(got[codes(cells[0])[0]], codes(cells[1])...)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-reference +troubleshooting):\n%s", heading, diff)
		}
	}
}

// Every refusal of a policy of the chart is in the table of refusals, and every row there is of such a refusal.
func TestTroubleshootingHasTheRefusalsOfThePolicies(t *testing.T) {
	type row struct{ policy, text string }
	seen := map[row]bool{}
	for _, cells := range rows(section(t, read(t, "docs/troubleshooting.md"), "### Refusals of the policies")) {
		seen[row{codes(cells[0])[0], codes(cells[1])[0]}] = false
	}
	found := 0
	for _, golden := range []string{"default", "full"} {
		for document := range strings.SplitSeq(read(t, "charts/podtoken/golden/"+golden+".yaml"), "\n---\n") {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
				t.Fatal(err)
			}
			if kind.Kind != "ValidatingAdmissionPolicy" {
				continue
			}
			var policy admissionv1.ValidatingAdmissionPolicy
			decode(t, document, &policy)
			for _, validation := range policy.Spec.Validations {
				found++
				text, known := validation.Message+validation.MessageExpression, false
				for r := range seen {
					if r.policy == policy.Name && strings.Contains(text, r.text) {
						seen[r], known = true, true
					}
				}
				if !known {
					t.Errorf("%s: docs/troubleshooting.md does not have the refusal %s", policy.Name, text)
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d refusals were found: the test has to follow the chart", found)
	}
	for r, used := range seen {
		if !used {
			t.Errorf("policy %s has no refusal with %q", r.policy, r.text)
		}
	}
}
