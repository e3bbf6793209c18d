package alerts

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// scenario is a bad or a good hour: series in the notation of promtool's unit tests, one sample a minute.
type scenario struct {
	series string
	// fires has what each firing alert says of itself, once it fires at any time: the labels that the reader needs to find
	// the culprit. Empty for a good hour.
	fires []string
	// after is when the first one fires, 0 for any time. It shows that "for" gives the time that it is meant to give.
	after time.Duration
}

const minutes = 60

// scenarios returns the hours of each alert by what happens in them. All begin in 1970: a timestamp of 3600 is the end.
func scenarios() map[string]map[string]scenario {
	all := maps.Clone(webhookScenarios)
	maps.Copy(all, controllerScenarios)
	maps.Copy(all, sidecarScenarios)
	return all
}

func TestAlerts(t *testing.T) {
	parsed := readRules(t)
	if got, want := slices.Sorted(maps.Keys(scenarios())), slices.Sorted(maps.Keys(parsed)); !slices.Equal(got, want) {
		t.Errorf("scenarios for %q, alerts are %q", got, want)
	}
	for name, hours := range scenarios() {
		good, bad := 0, 0
		for what, one := range hours {
			if len(one.fires) == 0 {
				good++
			} else {
				bad++
			}
			t.Run(name+"/"+what, func(t *testing.T) { one.check(t, name) })
		}
		if good == 0 || bad == 0 {
			t.Errorf("%s has %d good hours and %d bad ones, want some of both", name, good, bad)
		}
	}
}

func (s scenario) check(t *testing.T, name string) {
	fired, first := s.run(t, name)
	if want := slices.Sorted(slices.Values(s.fires)); !slices.Equal(slices.Sorted(maps.Keys(fired)), want) {
		t.Errorf("fired: %q, want %q", slices.Sorted(maps.Keys(fired)), want)
	}
	if s.after != 0 && first != s.after {
		t.Errorf("fired after %v, want %v", first, s.after)
	}
	for _, text := range fired {
		if strings.Contains(text, "{{") || strings.Contains(text, "<error") {
			t.Errorf("the text cannot be made: %s", text)
		}
	}
	for series := range fired {
		for _, annotation := range readRules(t)[name].Annotations {
			for _, label := range labelInText.FindAllStringSubmatch(annotation, -1) {
				if !strings.Contains(series, label[1]+`="`) {
					t.Errorf("the text needs the label %s, the alert has %s", label[1], series)
				}
			}
		}
	}
}

var labelInText = regexp.MustCompile(`\$labels\.(\w+)`)

// run evaluates one alert each minute. It returns the texts of those that fired by their labels, and when the first did.
func (s scenario) run(t *testing.T, name string) (fired map[string]string, first time.Duration) {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n"+indent(s.series))
	t.Cleanup(func() { _ = storage.Close() })
	engine := promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: promQL,
	})
	rule := readRules(t)[name]
	expr, err := promQL.ParseExpr(rule.Expr)
	if err != nil {
		t.Fatal(err)
	}
	alert := rules.NewAlertingRule(name, expr, time.Duration(rule.For), 0, labels.FromMap(rule.Labels), labels.FromMap(rule.Annotations),
		labels.EmptyLabels(), "", true, nil)
	fired = map[string]string{}
	for minute := range minutes + 1 {
		at := time.Duration(minute) * time.Minute
		if _, err := alert.Eval(t.Context(), 0, time.Unix(0, 0).Add(at), rules.EngineQueryFunc(engine, storage), nil, 0); err != nil {
			t.Fatal(err)
		}
		for _, active := range alert.ActiveAlerts() {
			if active.State != rules.StateFiring {
				continue
			}
			if len(fired) == 0 {
				first = at
			}
			fired[describe(active.Labels)] = active.Annotations.String()
		}
	}
	return fired, first
}

// describe leaves out the labels that every alert of a rule has.
func describe(all labels.Labels) string {
	b := labels.NewBuilder(all)
	b.Del(model.AlertNameLabel, "severity")
	return b.Labels().String()
}

func indent(series string) string {
	var b strings.Builder
	for line := range strings.Lines(series) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString("  " + line + "\n")
		}
	}
	return b.String()
}

var sentence = regexp.MustCompile(`^[A-Za-z].*\.$`)

// What a reader at night gets: how bad it is, what it is in a sentence, and what it does to pods.
func TestAlertsSayWhatTheyMean(t *testing.T) {
	for name, rule := range readRules(t) {
		if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" || len(rule.Labels) != 1 {
			t.Errorf("%s has labels %v, want a severity, critical or warning", name, rule.Labels)
		}
		if !strings.HasPrefix(name, "Podtoken") {
			t.Errorf("%s does not say whose it is", name)
		}
		if summary := rule.Annotations["summary"]; !sentence.MatchString(summary) || len(summary) > 80 {
			t.Errorf("%s: the summary %q is no short sentence", name, summary)
		}
		if len(rule.Annotations["description"]) < 80 || len(rule.Annotations) != 2 {
			t.Errorf("%s has annotations %v, want summary and description", name, rule.Annotations)
		}
		if rule.For == 0 {
			t.Errorf("%s fires at the first bad sample", name)
		}
	}
}
