package alerts

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

// withoutVariables puts in what Grafana would.
var withoutVariables = strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*")

func readDashboard(t *testing.T) board.Board {
	t.Helper()
	b, err := board.Parse(read(t, dashboard))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	variable    = regexp.MustCompile(`\$\{?(\w+)`)
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

func TestDashboard(t *testing.T) {
	b := readDashboard(t)
	if b.UID != "podtoken" || b.Title != "podtoken" {
		t.Errorf("it is %q, %q", b.UID, b.Title)
	}
	variables := []string{"__rate_interval"}
	for _, v := range b.Templating.List {
		variables = append(variables, v.Name)
	}
	for _, used := range variable.FindAllStringSubmatch(string(read(t, dashboard)), -1) {
		if !slices.Contains(append(variables, "__all"), used[1]) {
			t.Errorf("the variable %s is not there", used[0])
		}
	}
	want := board.Datasource{Type: "prometheus", UID: "${datasource}"}
	ids := map[int]bool{}
	for i, p := range b.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s is wider than the board", p.Title)
		}
		for _, other := range b.Panels[:i] {
			if overlap(p, other) {
				t.Errorf("%s lies over %s", p.Title, other.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource != want || !strings.HasSuffix(p.Description, ".") || len(p.Targets) == 0 {
			t.Errorf("%s has datasource %v, description %q and %d queries", p.Title, p.Datasource, p.Description, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource != want {
				t.Errorf("%s, query %s has datasource %v", p.Title, target.RefID, target.Datasource)
			}
			for _, label := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !strings.Contains(target.Expr, label[1]) && !slices.Contains(ofTarget, label[1]) && label[1] != "token" {
					t.Errorf("%s, query %s: the legend has a label %s that the query does not keep", p.Title, target.RefID, label[1])
				}
			}
		}
	}
}

func overlap(a, b board.Panel) bool {
	p, q := a.GridPos, b.GridPos
	return p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H
}

// Nothing of a dashboard may be of the cluster where it was drawn, or point to a host.
func TestDashboardIsOfNoCluster(t *testing.T) {
	for _, word := range []string{"http://", "https://", `"iteration"`, `"pluginVersion"`} {
		if strings.Contains(string(read(t, dashboard)), word) {
			t.Errorf("it has %s", word)
		}
	}
}

// variableQuery is a query of Grafana's own: of the values that a label has.
var variableQuery = regexp.MustCompile(`^label_values\((.+), \w+\)$`)
