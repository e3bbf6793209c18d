package docs

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// alert is what the runbook says of an alert as well.
type alert struct{ Name, Severity string }

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert  string            `json:"alert"`
				Labels map[string]string `json:"labels"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "charts/podtoken/files/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			all = append(all, alert{rule.Alert, rule.Labels["severity"]})
		}
	}
	if len(all) == 0 {
		t.Fatal("there are no alerts")
	}
	return all
}

var rowOfAlert = regexp.MustCompile(`(?m)^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|$`)

// Each alert has its paragraph, at the anchor that its runbook_url has, and each paragraph its alert, in the same order.
func TestRunbook(t *testing.T) {
	runbook := read(t, "docs/runbook.md")
	want := alerts(t)

	var table []alert
	for _, row := range rowOfAlert.FindAllStringSubmatch(runbook, -1) {
		table = append(table, alert{row[1], row[3]})
		if row[2] != strings.ToLower(row[1]) {
			t.Errorf("%s links to #%s", row[1], row[2])
		}
	}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("table (-alerts +runbook):\n%s", diff)
	}

	var paragraphs []alert
	for _, section := range strings.Split(runbook, "\n## ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		severity := ""
		if _, after, ok := strings.Cut(text, "- **Means** ("); ok {
			severity, _, _ = strings.Cut(after, ")")
		}
		paragraphs = append(paragraphs, alert{name, severity})
		if !anchors(t, "docs/runbook.md")[strings.ToLower(name)] {
			t.Errorf("%s is not at the anchor that the chart makes", name)
		}
		for _, part := range []string{"**Means**", "**Running pods**", "**New pods**", "**Look**", "**Do**"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s does not say: %s", name, part)
			}
		}
	}
	if diff := cmp.Diff(want, paragraphs); diff != "" {
		t.Errorf("paragraphs (-alerts +runbook):\n%s", diff)
	}
}

var object = regexp.MustCompile(`(deployment|lease|secret|certificate|mutatingwebhookconfiguration|validatingadmissionpolicybindings|configmaps)s? (podtoken-[a-z-]+|podtoken)\b`)

// What the runbook tells people to look at is there: objects of the default release, lines of the log, words of the code.
func TestRunbookNamesWhatIsThere(t *testing.T) {
	runbook := read(t, "docs/runbook.md")
	install := read(t, "manifests/install.yaml")
	names := object.FindAllStringSubmatch(runbook, -1)
	if len(names) < 6 {
		t.Errorf("found %d objects only: the test has to follow the text", len(names))
	}
	for _, name := range names {
		// The Lease is made by the controller, by the name that it is given; the Secrets by cert-manager, by that of the Certificate.
		if !strings.Contains(install, "name: "+name[2]+"\n") && !strings.Contains(install, "="+name[2]+"\n") {
			t.Errorf("the runbook names %q, which the default release does not have", name[0])
		}
	}
	for folder, lines := range map[string][]string{
		"internal/admission":  {"Review failed", "remoteAddress"},
		"internal/config":     {"Files refused"},
		"internal/httpserver": {"closed to make room"},
		"internal/grant":      {"Guard missing", "Pod has no grant", "reconciling the grant", "GrantRefused", "GrantFailed", "GrantConflict", "GuardMissing", "RoleBinding deleted"},
	} {
		for _, line := range lines {
			if !strings.Contains(runbook, line) {
				t.Errorf("the runbook does not mention %q", line)
			}
			matches(t, folder, fmt.Sprintf("(%s)", regexp.QuoteMeta(line)))
		}
	}
	for _, value := range regexp.MustCompile("`((?:webhook|controller|tls|metrics|policy|guard)\\.[A-Za-z.]+)(?:=true)?`").FindAllStringSubmatch(runbook, -1) {
		if !hasValue(t, value[1]) {
			t.Errorf("the chart has no value %s", value[1])
		}
	}
}

// hasValue reports whether the chart's values have a path, as the schema knows it.
func hasValue(t *testing.T, path string) bool {
	t.Helper()
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, "charts/podtoken/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	definitions := schema["definitions"].(map[string]any)
	node := schema
	for name := range strings.SplitSeq(path, ".") {
		properties, _ := node["properties"].(map[string]any)
		below, ok := properties[name].(map[string]any)
		if !ok {
			return false
		}
		if reference, ok := below["$ref"].(string); ok {
			below = definitions[strings.TrimPrefix(reference, "#/definitions/")].(map[string]any)
		}
		node = below
	}
	return true
}

// The outcomes that the runbook explains are all that an error can have.
func TestRunbookExplainsErrors(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "docs/runbook.md"), "## PodtokenWebhookErrors\n")
	section, _, _ = strings.Cut(section, "\n## ")
	line, _, _ := strings.Cut(after(t, read(t, "docs/reference.md"), "| `Error` | "), " |")
	for _, reason := range strings.Split(line, ", ") {
		if !strings.Contains(section, reason) {
			t.Errorf("PodtokenWebhookErrors does not explain %s", reason)
		}
	}
	for _, class := range slices.Compact(matches(t, "pkg/sidecar", `Class\w+\s+Class = "(\w+)"`)) {
		if !strings.Contains(read(t, "docs/reference.md"), "`"+class+"`") {
			t.Errorf("docs/reference.md, to which the runbook points, does not explain class %s", class)
		}
	}
}

func after(t *testing.T, text, mark string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, mark)
	if !found {
		t.Fatalf("there is no %q", mark)
	}
	return rest
}
