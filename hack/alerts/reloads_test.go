package alerts

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const reloadSuffix = "_last_reload_successful"

var noun = regexp.MustCompile(`noun:\s+"(\w+)"`)

// Each file that is read again while a component runs has an alert for when it is refused, in each job that reads it: a replica goes on
// with the old content, and the next one does not start.
func TestEachReloadHasAnAlert(t *testing.T) {
	all := exported(t)
	for _, file := range reloaded(t) {
		if len(all["podtoken_"+file+reloadSuffix]) == 0 {
			t.Errorf("no job exports podtoken_%s%s: a golden file of metrics lacks it", file, reloadSuffix)
		}
	}
	gauges := 0
	for name, metrics := range all {
		if !strings.HasSuffix(name, reloadSuffix) {
			continue
		}
		for _, m := range metrics {
			gauges++
			if alerts := alertsOn(t, name, m.job); len(alerts) == 0 {
				t.Errorf("no alert is about %s of %s", name, m.job)
			}
			if !fires(t, name, m.job) {
				t.Errorf("no alert fires when %s of %s is 0", name, m.job)
			}
		}
	}
	if gauges < 7 {
		t.Errorf("found %d gauges only: the test has to follow the names", gauges)
	}
}

// reloaded returns the nouns of what internal/config reads again.
func reloaded(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "internal/config/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var nouns []string
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		for _, match := range noun.FindAllStringSubmatch(string(read(t, strings.TrimPrefix(path, root+"/"))), -1) {
			nouns = append(nouns, match[1])
		}
	}
	if len(nouns) < 5 {
		t.Fatalf("found %q only: the test has to follow the code", nouns)
	}
	return nouns
}

// alertsOn returns the alerts that select a metric of a job.
func alertsOn(t *testing.T, name, job string) (found []string) {
	t.Helper()
	for alert, rule := range readRules(t) {
		selectors, err := selectorsOf(rule.Expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, selector := range selectors {
			if selector.Name == name && matchesJob(selector, job) {
				found = append(found, alert)
			}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(found)))
}

// fires reports whether an alert names the instance for which a metric is 0 for an hour.
func fires(t *testing.T, name, job string) bool {
	t.Helper()
	bad := scenario{series: name + `{job="` + job + `",instance="a"} 0x60`}
	for _, alert := range alertsOn(t, name, job) {
		fired, _ := bad.run(t, alert)
		for labels := range maps.Keys(fired) {
			if strings.Contains(labels, `instance="a"`) && strings.Contains(labels, `job="`+job+`"`) {
				return true
			}
		}
	}
	return false
}
