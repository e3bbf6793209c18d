package serve

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/notify"
)

var update = flag.Bool("update", false, "write the golden files")

// busy is a sidecar to which everything has happened.
func busy() *Server {
	s := New(Config{Port: 9102, Version: "v1.2.3", Log: slog.New(slog.DiscardHandler), Notifications: func() []notify.Count {
		return []notify.Count{{Kind: notify.KindHTTP, Successes: 40, Failures: 2}, {Kind: notify.KindSignal, Failures: 20, Pending: 2}}
	}})
	failures, refreshes := map[sidecar.Class]uint64{}, map[sidecar.Cause]uint64{}
	for i, class := range sidecar.Classes() {
		failures[class] = uint64(i)
	}
	for i, cause := range sidecar.Causes() {
		refreshes[cause] = uint64(i)
	}
	s.Update(sidecar.Snapshot{Tokens: []sidecar.TokenSnapshot{
		{
			Name: "vault", Expires: s.started.Add(time.Hour), LastSuccess: s.started.Add(1500 * time.Millisecond),
			AskedSeconds: 3600, GrantedSeconds: 1800, Failures: failures, Refreshes: refreshes, Restored: 3,
		},
		{Name: "billing-2", AskedSeconds: 600},
	}})
	return s
}

func TestMetrics(t *testing.T) {
	const golden = "testdata/metrics.txt"
	synctest.Test(t, func(t *testing.T) {
		got := strings.ReplaceAll(string(busy().metrics()), runtime.Version(), "go1")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("(-%s +got):\n%s", golden, diff)
		}
	})
}

// What is written by hand is what Prometheus reads, and follows its conventions; also before anything is known, without
// anybody to notify, and with a version that needs escaping.
func TestMetricsAreClean(t *testing.T) {
	young := New(Config{Version: "a\\b\"c\nd"})
	for name, content := range map[string][]byte{"everything": busy().metrics(), "nothing": young.metrics()} {
		t.Run(name, func(t *testing.T) {
			problems, err := promlint.New(bytes.NewReader(content)).Lint()
			if err != nil {
				t.Fatalf("it cannot be parsed: %v\n%s", err, content)
			}
			for _, problem := range problems {
				t.Errorf("%s: %s", problem.Metric, problem.Text)
			}
		})
	}
	if got := string(young.metrics()); !strings.Contains(got, `{version="a\\b\"c\nd",`) || strings.Contains(got, "notifications") || strings.Contains(got, "sidecar_token_") {
		t.Errorf("got:\n%s", got)
	}
	// The test must notice a mistake.
	if _, err := promlint.New(strings.NewReader("a{b=\"c} 1\n")).Lint(); err == nil {
		t.Error("broken text is taken")
	}
}

// Metrics, their labels, and the values of the labels are in the reference.
func TestReferenceNamesTheMetrics(t *testing.T) {
	reference, err := os.ReadFile("../../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for line := range strings.Lines(string(busy().metrics())) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, labelled := strings.Cut(strings.Fields(line)[0], "{")
		if labelled {
			var labels []string
			for label := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
				key, value, _ := strings.Cut(label, "=")
				labels = append(labels, key)
				if value = strings.Trim(value, `"`); key == "cause" || key == "class" || key == "kind" || key == "result" {
					if !bytes.Contains(reference, []byte("`"+value+"`")) {
						t.Errorf("docs/reference.md does not name the value %q of the label %s", value, key)
					}
				}
			}
			name += "{" + strings.Join(labels, ",") + "}"
		}
		names++
		if !bytes.Contains(reference, []byte("`"+name+"`")) {
			t.Errorf("docs/reference.md does not name the metric %q", name)
		}
	}
	if names < 40 {
		t.Errorf("only %d series: the test has to follow the code", names)
	}
}
