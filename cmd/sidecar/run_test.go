package main

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

var update = flag.Bool("update", false, "write the golden files")

// call runs the program in this process.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errout bytes.Buffer
	code = run(t.Context(), args, func(name string) string { return env[name] }, &out, &errout)
	return code, out.String(), errout.String()
}

func TestHelp(t *testing.T) {
	const golden = "testdata/help.golden"
	code, got, stderr := call(t, nil, "help")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" || code != 0 || stderr != "" {
		t.Errorf("exit code %d %s\n%s", code, stderr, diff)
	}
	for _, args := range [][]string{nil, {"-h"}, {"-help"}, {"--help"}, {"run", "-help"}, {"wait", "-h"}, {"check", "--help"}} {
		if code, stdout, _ := call(t, nil, args...); code != 0 || stdout != got {
			t.Errorf("%q: exit code %d, another text", args, code)
		}
	}
}

// TestHelpNamesEveryFlagAndVariable holds the manual against the code.
func TestHelpNamesEveryFlagAndVariable(t *testing.T) {
	for _, name := range []string{
		"--" + api.FlagToken + "=", "--" + api.FlagNotify + "=", "--" + api.FlagNotifySignal + "=", "--" + api.FlagMetricsPort + "=",
		"--dir=", "--api-dir=", "--termination-log=", "--timeout=",
		api.EnvPodName, api.EnvPodNamespace, api.EnvPodUID, api.EnvServiceAccount,
		api.SidecarTokenDir, api.APIMountPath, api.StatusFile, api.TempPrefix, terminationLog,
	} {
		if !strings.Contains(help, name) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, stdout, _ := call(t, nil, "version"); code != 0 || stdout != "v0.0.0-dev\n" {
		t.Errorf("exit code %d: %q", code, stdout)
	}
}

func TestWrongUseIsExitCode2(t *testing.T) {
	env := map[string]string{
		"PODTOKEN_POD_NAME": "cart-1", "PODTOKEN_POD_NAMESPACE": "shop", "PODTOKEN_POD_UID": "u-p", "PODTOKEN_SERVICE_ACCOUNT": "cart",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443",
	}
	without := func(names ...string) map[string]string {
		rest := map[string]string{}
		for name, value := range env {
			rest[name] = value
		}
		for _, name := range names {
			delete(rest, name)
		}
		return rest
	}
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		want string // in the output, and for run in the termination message
	}{
		"an unknown command":           {env, []string{"walk"}, `unknown command "walk": want run, wait, check, refresh, version or help`},
		"an unknown flag":              {env, []string{"run", "--tokens=x"}, "run: flag provided but not defined: -tokens"},
		"an argument":                  {env, []string{"run", "--token=" + vault, "more"}, `run: unexpected argument "more": only flags are taken`},
		"no token":                     {env, []string{"run"}, "no token to keep: give at least one --token"},
		"a token with one dash":        {env, []string{"run", "-token=" + vault}, "run: argument "},
		"a token in two arguments":     {env, []string{"run", "--token=" + vault, "--token", billing}, `run: argument "--token": want --flag=value`},
		"a token in place of a path":   {env, []string{"run", "--token=" + vault, "--dir", "--token=" + billing}, `run: argument "--dir": want --flag=value`},
		"a token behind the flags":     {env, []string{"run", "--token=" + vault, "--", "--token=" + billing}, `run: argument "--": want --flag=value`},
		"a token of a newer webhook":   {env, []string{"run", `--token={"new":1}`}, `unknown field "new"`},
		"a notify URL that leads out":  {env, []string{"run", "--token=" + vault, "--notify=http://example.com"}, `notify URL "http://example.com"`},
		"a signal that is none":        {env, []string{"run", "--token=" + vault, "--notify-signal=HUP:nginx"}, `signal "HUP:nginx": want SIGNAL:process-name`},
		"a port that is none":          {env, []string{"run", "--token=" + vault, "--metrics-port=x"}, `invalid value "x" for flag -metrics-port`},
		"no identity":                  {without("PODTOKEN_POD_UID"), []string{"run", "--token=" + vault}, "environment variable PODTOKEN_POD_UID is \"\""},
		"no API server":                {without("KUBERNETES_SERVICE_HOST"), []string{"run", "--token=" + vault}, "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set"},
		"no directory":                 {env, []string{"run", "--token=" + vault, "--dir=/nowhere"}, "opening the token directory"},
		"wait with an unknown flag":    {env, []string{"wait", "--x"}, "wait: flag provided but not defined: -x"},
		"wait with a time that is not": {env, []string{"wait", "--timeout=1"}, `invalid value "1" for flag -timeout`},
		"check with an argument":       {env, []string{"check", "vault"}, `check: unexpected argument "vault"`},
		"check with another output":    {env, []string{"check", "--output=yaml"}, `check: --output=yaml: want text or json`},
	} {
		t.Run(name, func(t *testing.T) {
			args := c.args
			termination := filepath.Join(t.TempDir(), "termination-log")
			if args[0] == "run" {
				args = append([]string{"run", "--termination-log=" + termination}, args[1:]...)
			}
			code, stdout, stderr := call(t, c.env, args...)
			said := strings.ReplaceAll(stderr, `\"`, `"`)
			if code != 2 || !strings.Contains(said, c.want) || stdout != "" {
				t.Errorf("exit code %d: %s%s", code, stderr, stdout)
			}
			if args[0] == "run" {
				message, err := os.ReadFile(termination)
				if err != nil || !strings.Contains(string(message), c.want) {
					t.Errorf("termination message %q, %v", message, err)
				}
			}
		})
	}
}

func TestOptionsAreKept(t *testing.T) {
	o, err := parseOptions([]string{
		"--token=" + vault, "--token=" + billing, "--notify=http://localhost:8080/reload", "--notify-signal=SIGHUP:nginx", "--metrics-port=9102",
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.config(func(name string) string { return "value-of-" + name })
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		Pod: config.Pod{
			Namespace: "value-of-PODTOKEN_POD_NAMESPACE", Name: "value-of-PODTOKEN_POD_NAME", UID: "value-of-PODTOKEN_POD_UID",
			ServiceAccount: "value-of-PODTOKEN_SERVICE_ACCOUNT",
		},
		Tokens: []api.TokenSpec{
			{Name: "vault", Audiences: []string{"vault", "https://kubernetes.default.svc"}, ExpirationSeconds: 3600, Path: "vault", Mode: "0400", RefreshAtPercent: 80},
			{Name: "billing", Audiences: []string{"https://billing.example.com"}, ExpirationSeconds: 600, Path: "deep/er/billing.jwt", Mode: "0440", RefreshAtPercent: 20},
		},
		Dir: "/var/run/secrets/podtoken.dev", Notify: "http://localhost:8080/reload",
		NotifySignal: config.Signal{Name: "SIGHUP", Process: "nginx"}, MetricsPort: 9102,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if o.apiDir != "/var/run/secrets/kubernetes.io/serviceaccount" || o.terminationLog != "/dev/termination-log" {
		t.Errorf("%+v", o)
	}
}

func TestTerminationMessageIsBounded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "termination-log")
	terminate(slog.New(slog.DiscardHandler), name, "a"+strings.Repeat("é", 3000))
	content, err := os.ReadFile(name)
	if err != nil || len(content) != 4095 || !utf8.Valid(content) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
}
