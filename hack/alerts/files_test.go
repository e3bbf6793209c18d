package alerts

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	root      = "../.."
	alerts    = "charts/podtoken/files/alerts.yaml"
	dashboard = "charts/podtoken/files/dashboard.json"
	golden    = "charts/podtoken/golden/full.yaml"
)

// promQL is the language that a Prometheus without feature flags understands.
var promQL = parser.NewParser(parser.Options{})

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// readRules returns the alerts by name. rulefmt finds what `promtool check rules` does.
func readRules(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	groups, problems := rulefmt.Parse(read(t, alerts), false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
	for _, problem := range problems {
		t.Error(problem)
	}
	if t.Failed() {
		t.FailNow()
	}
	rules := map[string]rulefmt.Rule{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			if _, twice := rules[rule.Alert]; twice || rule.Alert == "" {
				t.Errorf("group %s: alert %q has no name, or there are two", group.Name, rule.Alert)
			}
			rules[rule.Alert] = rule
		}
	}
	return rules
}
