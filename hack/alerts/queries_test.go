package alerts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// queries returns all queries of alerts and dashboard by where they stand.
func queries(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, rule := range readRules(t) {
		all["alert "+name] = rule.Expr
	}
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			all[fmt.Sprintf("panel %s, query %s", panel.Title, target.RefID)] = withoutVariables.Replace(target.Expr)
		}
	}
	for _, v := range readDashboard(t).Templating.List {
		if v.Type != "query" {
			continue
		}
		parts := variableQuery.FindStringSubmatch(v.Definition)
		if parts == nil {
			t.Fatalf("variable %s has the query %s, want label_values(SELECTOR, LABEL)", v.Name, v.Definition)
		}
		all["variable "+v.Name] = parts[1]
	}
	return all
}

// Every selector names the jobs whose metric it means. Otherwise any pod could raise an alert about the controller: it only has to
// export a metric of that name.
func TestQueriesNameTheirJobs(t *testing.T) {
	all := exported(t)
	for where, query := range queries(t) {
		for _, problem := range checkJobs(all, query) {
			t.Errorf("%s: %s", where, problem)
		}
	}
}

// TestCheckJobs keeps the check itself honest.
func TestCheckJobs(t *testing.T) {
	all := exported(t)
	for query, want := range map[string]string{
		`podtoken_guard_present{job="podtoken-controller"} == 0 and on (job, instance) podtoken_controller_leading{job="podtoken-controller"} == 1`: ``,
		`sum(rate(podtoken_grant_reconciles_total{job="podtoken-controller"}[5m])) or vector(0)`:                                                    ``,
		`podtoken_build_info{job=~"podtoken-(webhook|controller)"}`:                                                                                 ``,
		`up{job="podtoken-webhook"}`:                                             ``,
		`apiserver_admission_webhook_rejection_count{job!~"podtoken-.*"}`:        ``,
		`apiserver_admission_webhook_rejection_count{job="apiserver"}`:           ``,
		`podtoken_guard_present == 0`:                                            `podtoken_guard_present names no job`,
		`max(podtoken_grants) + max(podtoken_grants{job="podtoken-controller"})`: `podtoken_grants names no job`,
		`absent(up == 1)`: `up names no job`,
		`increase(podtoken_grant_reconciles_total[10m])`:                                  `podtoken_grant_reconciles_total names no job`,
		`podtoken_grants{job!=""}`:                                                        `podtoken_grants{job!=""} may be of the job podtoken-sidecar; podtoken_grants{job!=""} may be of the job podtoken-webhook; podtoken_grants{job!=""} may be of the job shop/cart`,
		`podtoken_grants{job=~"podtoken-.*"}`:                                             `podtoken_grants{job=~"podtoken-.*"} may be of the job podtoken-sidecar; podtoken_grants{job=~"podtoken-.*"} may be of the job podtoken-webhook`,
		`podtoken_grants{job=~".*controller",namespace="n"}`:                              ``,
		`podtoken_sidecar_build_info{job!~"podtoken-(webhook|controller)"}`:               `podtoken_sidecar_build_info{job!~"podtoken-(webhook|controller)"} may be of the job shop/cart`,
		`apiserver_admission_webhook_rejection_count`:                                     `apiserver_admission_webhook_rejection_count names no job`,
		`apiserver_admission_webhook_rejection_count{job!="podtoken-sidecar"}`:            `apiserver_admission_webhook_rejection_count{job!="podtoken-sidecar"} may be of the job podtoken-controller; apiserver_admission_webhook_rejection_count{job!="podtoken-sidecar"} may be of the job podtoken-webhook`,
		`podtoken_config_reloads_total{job="podtoken-webhook",job=~".*"} > time() @ end(`: `1:80: parse error: unclosed left parenthesis`,
	} {
		if got := strings.Join(checkJobs(all, query), "; "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

// elsewhere is the job of a monitor that is not podtoken's.
const elsewhere = "shop/cart"

// checkJobs returns the selectors of a query that name no job, or match jobs that do not export the metric.
func checkJobs(all map[string][]metric, query string) []string {
	selectors, err := selectorsOf(query)
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	for _, n := range selectors {
		if !slices.ContainsFunc(n.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == "job" }) {
			problems = append(problems, n.Name+" names no job")
			continue
		}
		for _, job := range append(slices.Sorted(maps.Keys(expositions)), elsewhere) {
			exports := slices.ContainsFunc(all[n.Name], func(m metric) bool { return m.job == job })
			// The job of API servers is any that is not podtoken's.
			exports = exports || job == elsewhere && slices.ContainsFunc(all[n.Name], func(m metric) bool { return m.job == "apiserver" })
			if matchesJob(n, job) && !exports {
				problems = append(problems, fmt.Sprintf("%s may be of the job %s", n, job))
			}
		}
	}
	return problems
}

func selectorsOf(query string) (selectors []*parser.VectorSelector, err error) {
	expr, err := promQL.ParseExpr(query)
	if err != nil {
		return nil, err
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if n, ok := node.(*parser.VectorSelector); ok {
			selectors = append(selectors, n)
		}
		return nil
	})
	return selectors, nil
}

func matchesJob(n *parser.VectorSelector, job string) bool {
	return !slices.ContainsFunc(n.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == "job" && !m.Matches(job) })
}

// Whatever a query names is exported, and so is each value of a label that it asks for.
func TestQueriesNameWhatIsExported(t *testing.T) {
	all := exported(t)
	for where, query := range queries(t) {
		for _, problem := range check(all, query) {
			t.Errorf("%s: %s", where, problem)
		}
	}
}

// TestCheck keeps the check itself honest.
func TestCheck(t *testing.T) {
	all := exported(t)
	for query, want := range map[string]string{
		`sum by (outcome) (rate(podtoken_admission_reviews_total{outcome="Denied"}[5m]))`: ``,
		`podtoken_admission_review_total`:                                                 `podtoken_admission_review_total is not exported`,
		`podtoken_grants{audience="x"}`:                                                   `podtoken_grants has no label audience`,
		`podtoken_admission_reviews_total{outcome="Refused"}`:                             `no podtoken_admission_reviews_total has outcome="Refused"`,
		`podtoken_admission_reviews_total{outcome=~"Refused|Gone"}`:                       `no podtoken_admission_reviews_total has outcome=~"Refused|Gone"`,
		`podtoken_grants{job="podtoken-webhook"}`:                                         `no podtoken_grants has job="podtoken-webhook"`,
		`sum by (class) (podtoken_grants)`:                                                `nothing here has the label class`,
		`podtoken_grants and on (class) podtoken_guard_present`:                           `nothing here has the label class`,
		`{__name__=~"podtoken_.+"}`:                                                       `{__name__=~"podtoken_.+"} names no metric`,
		`podtoken_grants >`:                                                               `1:18: parse error: unexpected end of input`,
	} {
		if got := strings.Join(check(all, query), "; "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

// check returns what a query names that is not there.
func check(all map[string][]metric, query string) []string {
	expr, err := promQL.ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	var problems, used []string
	var known []string // labels that something in the query has
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			if n.Name == "" {
				problems = append(problems, fmt.Sprintf("%s names no metric", n))
				return nil
			}
			metrics, ok := all[n.Name]
			if !ok {
				problems = append(problems, n.Name+" is not exported")
			}
			has := labelsOf(metrics)
			for label := range has {
				known = append(known, label)
			}
			problems = append(problems, checkMatchers(n, has)...)
		case *parser.AggregateExpr:
			used = append(used, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				used = append(used, n.VectorMatching.MatchingLabels...)
				used = append(used, n.VectorMatching.Include...)
			}
		}
		return nil
	})
	for _, label := range used {
		if !slices.Contains(known, label) {
			problems = append(problems, "nothing here has the label "+label)
		}
	}
	return problems
}

func checkMatchers(selector *parser.VectorSelector, has map[string][]string) []string {
	var problems []string
	for _, matcher := range selector.LabelMatchers {
		values, ok := has[matcher.Name]
		switch {
		case matcher.Name == model.MetricNameLabel:
		case !ok:
			problems = append(problems, fmt.Sprintf("%s has no label %s", selector.Name, matcher.Name))
		case slices.Contains(free, matcher.Name) && matcher.Name != "job":
		case !slices.ContainsFunc(values, matcher.Matches):
			problems = append(problems, fmt.Sprintf("no %s has %s", selector.Name, matcher))
		}
	}
	return problems
}

// The scenarios are of this world, too: of what is exported, and labelled as it is.
func TestScenariosAreOfWhatIsExported(t *testing.T) {
	all := exported(t)
	for name, hours := range scenarios() {
		for what, one := range hours {
			for line := range strings.Lines(indent(one.series)) {
				series, _, err := promQL.ParseSeriesDesc(strings.TrimSpace(line))
				if err != nil {
					t.Errorf("%s, %s: %v", name, what, err)
					continue
				}
				if series.Get("job") == "" {
					t.Errorf("%s, %s: %s has no job, so that no query finds it", name, what, series)
				}
				for _, problem := range check(all, selector(series)) {
					t.Errorf("%s, %s: %s", name, what, problem)
				}
			}
		}
	}
}

// selector returns a query for exactly one series, without the bounds of histograms: the files that say what is exported
// leave them out.
func selector(series labels.Labels) string {
	b := labels.NewBuilder(series)
	b.Del("le", model.MetricNameLabel)
	return series.Get(model.MetricNameLabel) + b.Labels().String()
}

// Every query can be evaluated over two replicas of everything: labels that do not match one to one are an error only then.
// On the dashboard each shows something.
func TestQueriesEvaluate(t *testing.T) {
	var series strings.Builder
	for name, metrics := range exported(t) {
		for _, m := range metrics {
			for _, set := range m.series {
				for _, replica := range []string{"a", "b"} {
					b := labels.NewBuilder(labels.FromMap(set))
					b.Set("job", m.job).Set("namespace", "n").Set("pod", replica).Set("instance", replica+m.job)
					values := "1x60"
					switch {
					case m.counter:
						values = "0+1x60"
					case name == "podtoken_sidecar_token_asked_lifetime_seconds":
						values = "2x60" // more than is granted, which a panel shows
					}
					fmt.Fprintf(&series, "  %s%s %s\n", name, b.Labels(), values)
				}
			}
		}
	}
	storage := promqltest.LoadedStorage(t, "load 1m\n"+series.String())
	t.Cleanup(func() { _ = storage.Close() })
	engine := promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: promQL,
	})
	for where, query := range queries(t) {
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, query, time.Unix(3600, 0))
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		result := q.Exec(t.Context())
		vector, err := result.Vector()
		if err != nil {
			t.Errorf("%s: %v", where, err)
		}
		if strings.HasPrefix(where, "panel") && len(vector) == 0 {
			t.Errorf("%s shows nothing: %s", where, query)
		}
		q.Close()
	}
}
