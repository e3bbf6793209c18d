package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
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
	var stderr bytes.Buffer
	if err := run(t.Context(), []string{"-help"}, &stderr); err != nil {
		t.Errorf("run(-help) = %v", err)
	}
	checkGolden(t, "testdata/help.txt", stderr.String())
}

func TestOptionsAreRefused(t *testing.T) {
	tests := map[string]string{
		"--webhook-bind-address=9443":     `flag --webhook-bind-address: "9443": not host:port (the host may be empty: ":9443"): address 9443: missing port in address`,
		"--http-bind-address=:http":       `flag --http-bind-address: ":http": port "http" is not a number between 1 and 65535`,
		"--http-bind-address=:0":          `flag --http-bind-address: ":0": port "0" is not a number between 1 and 65535`,
		"--http-bind-address=[::1]:65536": `flag --http-bind-address: "[::1]:65536": port "65536" is not a number between 1 and 65535`,
		"--cert-dir=":                     `flag --cert-dir: "" is empty, it must name a directory with tls.crt and tls.key`,
		"--config=":                       `flag --config: "" is empty, it must name the configuration file`,
		"--policy=":                       `flag --policy: "" is empty, it must name the policy file`,
		"--identity-token=":               `flag --identity-token: "" is empty, it must name a file with a token of our own`,
		"--drain-delay=-1s":               `flag --drain-delay: -1s is not between 0s and 5m0s`,
		"--drain-delay=6m":                `flag --drain-delay: 6m0s is not between 0s and 5m0s`,
		"--drain-delay=10":                `invalid value "10" for flag -drain-delay: parse error, see -help`,
		"--reload-interval=0s":            `flag --reload-interval: 0s is not between 10ms and 1m0s`,
		"--max-request-bytes=1000":        `flag --max-request-bytes: 1000 is not between 65536 and 67108864`,
		"--max-connections=0":             `flag --max-connections: 0 is not between 1 and 100000`,
		"--max-connections=100":           `flag --max-connections-per-address: 384 is not between 1 and 100 (--max-connections)`,
		"--log-level=trace":               `flag --log-level: "trace" is not one of debug, info, warn, error`,
		"--unknown":                       `flag provided but not defined: -unknown, see -help`,
		"config.yaml":                     `argument "config.yaml" is not expected: everything is set by flags, see -help`,
	}
	for arg, want := range tests {
		t.Run(arg, func(t *testing.T) {
			var stderr bytes.Buffer
			err := run(t.Context(), []string{arg}, &stderr)
			if err == nil || err.Error() != want {
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
	p, args := prepare(t)
	p.write(t, "client-ca.crt", newAuthority(t, "client CA").pem)
	p.start(t, append(args, "--client-ca-file="+filepath.Join(p.dir, "client-ca.crt"))) // which has metrics of its own
	eventually(t, "ready", p.ready)
	_, body, err := p.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
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
