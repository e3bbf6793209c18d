package main

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func checkGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of date, run the test with -update if this is right (-want +got):\n%s", path, diff)
	}
}

func TestHelp(t *testing.T) {
	for path, args := range map[string][]string{"testdata/help.txt": {"-help"}, "testdata/cleanup.txt": {"cleanup", "-help"}} {
		var stderr bytes.Buffer
		if err := run(t.Context(), args, &stderr); err != nil {
			t.Errorf("run(%q) = %v", args, err)
		}
		checkGolden(t, path, stderr.String())
	}
}

func TestOptionsAreRefused(t *testing.T) {
	tests := map[string]string{
		"--http-bind-address=8080":               `flag --http-bind-address: "8080": not host:port (the host may be empty: ":8080"): address 8080: missing port in address`,
		"--http-bind-address=:0":                 `flag --http-bind-address: ":0": port "0" is not a number between 1 and 65535`,
		"--policy=":                              `flag --policy: "" is empty, it must name the policy file`,
		"--identity-token=":                      `flag --identity-token: "" is empty, it must name a file with a token of our own`,
		"--removal-delay=-1s":                    `flag --removal-delay: -1s is not between 0s and 24h0m0s`,
		"--removal-delay=25h":                    `flag --removal-delay: 25h0m0s is not between 0s and 24h0m0s`,
		"--removal-delay=10":                     `invalid value "10" for flag -removal-delay: parse error, see -help`,
		"--withdrawal-delay=-1s":                 `flag --withdrawal-delay: -1s is not between 0s and 1h0m0s`,
		"--withdrawal-delay=61m":                 `flag --withdrawal-delay: 1h1m0s is not between 0s and 1h0m0s`,
		"cleanup --timeout=65s":                  `flag --timeout: 1m5s is not longer than 1m5s, the value of --withdrawal-delay, for which the guard stays after the last grant`,
		"--reload-interval=0s":                   `flag --reload-interval: 0s is not between 10ms and 1m0s`,
		"--guard=A":                              `flag --guard: "A" is not the name of an object: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
		"--guard=":                               `flag --guard: "" is empty, it must name the ValidatingAdmissionPolicy that guards grants; API servers that load it from disk have it as guard.podtoken.dev.static.k8s.io`,
		"--controller-guard=":                    `flag --controller-guard: "" is not the name of an object`,
		"--log-level=trace":                      `flag --log-level: "trace" is not one of debug, info, warn, error`,
		"--unknown":                              `flag provided but not defined: -unknown, see -help`,
		"start":                                  `argument "start" is not expected: everything is set by flags, see -help`,
		"--kubeconfig=/nowhere":                  `reading how to reach the API server (flag --kubeconfig: "/nowhere"): stat /nowhere: no such file or directory`,
		"--kubeconfig=":                          `reading how to reach the API server (flag --kubeconfig: ""): unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined`,
		"--serving-certificate-secret=A":         `flag --serving-certificate-secret: "A" is not the name of an object`,
		"--serving-certificate-secret=a":         `flag --serving-certificate-name: "" is not the name of an object`,
		"--serving-certificate-name=a":           `flag --serving-certificate-name: "a" has no effect without --serving-certificate-secret`,
		"--webhook-configuration=":               `flag --webhook-configuration: "" is not the name of an object`,
		"cleanup --serving-certificate-secret=_": `flag --serving-certificate-secret: "_" is not the name of an object`,
		"cleanup --timeout=0s":                   `flag --timeout: 0s is not between 1s and 1h0m0s`,
		"cleanup --log-level=x":                  `flag --log-level: "x" is not one of debug, info, warn, error`,
		"cleanup now":                            `argument "now" is not expected: everything is set by flags, see -help`,
		"cleanup --guard=_":                      `flag --guard: "_" is not the name of an object`,
		"cleanup --grants-policy=_":              `flag --grants-policy: "_" is not the name of an object`,
		"--leader-election-namespace=a.b":        `flag --leader-election-namespace: "a.b" is not the name of a namespace: must not contain dots`,
		"--leader-election-namespace=":           `flag --leader-election-namespace: it must be set outside of a cluster: open /var/run/secrets/kubernetes.io/serviceaccount/namespace: no such file or directory`,
		"cleanup --namespace=":                   `flag --namespace: it must be set outside of a cluster: open /var/run/secrets/kubernetes.io/serviceaccount/namespace: no such file or directory`,
		"cleanup --kubeconfig=/nowhere":          `reading how to reach the API server (flag --kubeconfig: "/nowhere"): stat /nowhere: no such file or directory`,
		"cleanup --webhook-configuration=_":      `flag --webhook-configuration: "_" is not the name of an object`,
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // as outside of a cluster
	for args, want := range tests {
		t.Run(args, func(t *testing.T) {
			// A namespace first, because outside of a cluster there is none; the test's own flag may set another.
			list := strings.Fields(args)
			if list[0] == commandCleanup {
				list = append([]string{commandCleanup, "--namespace=x"}, list[1:]...)
			} else {
				list = append([]string{"--leader-election-namespace=x"}, list...)
			}
			var stderr bytes.Buffer
			err := run(t.Context(), list, &stderr)
			if err == nil || err.Error() != want && !strings.HasPrefix(err.Error(), want+":") {
				t.Errorf("run() = %v\nwant    %s", err, want)
			}
			if stderr.Len() > 0 {
				t.Errorf("stderr = %q: errors are returned, not printed twice", &stderr)
			}
		})
	}
}

// The names, types, help and labels of all metrics, without values and without those of Go and the process.
func TestMetricsText(t *testing.T) {
	p := start(t, newGuarded(t))
	ready(t, p)
	_, body := p.fetch("/metrics")
	var got strings.Builder
	value := regexp.MustCompile(` \S+$`)
	own := regexp.MustCompile(`^(# (HELP|TYPE) )?podtoken_`)
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if !own.MatchString(line) || strings.Contains(line, "_bucket{") {
			continue
		}
		if !strings.HasPrefix(line, "#") {
			line = value.ReplaceAllString(line, "")
		}
		line = regexp.MustCompile(`goversion="[^"]*"`).ReplaceAllString(line, `goversion="GO"`)
		got.WriteString(line + "\n")
	}
	checkGolden(t, "testdata/metrics.txt", got.String())
	for _, name := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}
