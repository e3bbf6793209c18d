package mutate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// annotationLines reads a fuzzed text: a line is "key=value", with the prefix left out; "\n" in a value is a newline.
func annotationLines(text string) map[string]string {
	annotations := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			annotations["podtoken.dev/"+key] = strings.ReplaceAll(value, `\n`, "\n")
		}
	}
	return annotations
}

var annotationSeeds = []string{
	"audience=vault",
	"audience.vault=vault, https://kubernetes.default.svc;a\\nb\nexpiration=90m\nexpiration.vault=5400\npath.vault=dir/vault\nenv.vault=V\nfile-mode=0440\nfile-mode.vault=400",
	"audience.a=a\naudience.b=b\naudience.c-d=c\nenv.a=none\nwait=strict\nrefresh-at=20%\nmount-path=/etc/tokens\nmetrics-port=9102\nreadiness=true",
	"audience.a=a\ncontainers=c0 c1\nskip-containers=i0\nnotify=http://localhost:8080/reload\nnotify-signal=SIGHUP:nginx\ndelivery=sidecar\ninject=true",
	"audience.a=a\nexpiration.a=2h\ndelivery=projected\nsidecar-resources={\"requests\":{\"cpu\":\"1m\"}}",
	"audience.a=a b\nformat.a=kubeconfig\nkubeconfig-server.a=https://k8s.example.com\naudience.b=b\ntemplate.b={{range .audiences}}{{json .}}$(A){{end}}\nformat.c=json\naudience.c=c\naudience.d=d\nformat.d=header",
	"aws-role-arn.a=arn:aws:iam::123456789012:role/r\naws-region.a=eu-central-1\naws-session-name.a=s1\nazure-client-id.b=00000000-1111-2222-3333-444444444444\nazure-tenant-id.b=t\nazure-authority-host.b=https://login.example.com/",
	"gcp-provider.g=projects/1/locations/global/workloadIdentityPools/p/providers/q\ngcp-service-account.g=a@b.example.com\ngcp-token-url.g=https://sts.example.com\nvault-role.v=r\nvault-addr.v=http://v:8200\nvault-auth-path.v=auth/k\nvault-namespace.v=n\npath.v=x/y",
	"profile=base,vault\nexpiration=20m\naudience=x",
	"audience.a=$(HOME)\nsidecar-resources={\"limits\":{\"memory\":\"16Mi\"}}\nstatus={}",
	"audiance.a=a\npath=x\nwait.a=true\naudience.A_b=x\nexpiration=1\nfile-mode=0666\nmount-path=/\nnotify=http://x/\ninject=maybe",
}

// fuzzConfig has profiles.
const fuzzConfig = defaultConfig + `
profiles:
  base: {expiration: 30m, file-mode: "0440"}
  vault: {audience.vault: "vault, b", env.vault: VAULT_JWT, format.vault: json}
`

// FuzzParse: the parser never panics, reports the same for the same, and what it takes keeps its own rules and is the same
// when it is written down and parsed again.
func FuzzParse(f *testing.F) {
	for _, seed := range annotationSeeds {
		f.Add(seed)
	}
	cfg := parsedConfig(f, fuzzConfig)
	exported := cmp.AllowUnexported(request{}, tokenRequest{}, problem{}, extraFile{}, variable{})
	f.Fuzz(func(t *testing.T, text string) {
		annotations := annotationLines(text)
		req, problems := parse(annotations, cfg)
		again, againProblems := parse(annotations, cfg)
		if diff := cmp.Diff(req, again, exported) + cmp.Diff(problems, againProblems, exported); diff != "" {
			t.Fatalf("parsing twice gives different results:\n%s", diff)
		}
		for _, p := range problems {
			if p.reason == "" || p.text == "" || len(p.text) > 1000 || !utf8.ValidString(p.text) || strings.ContainsFunc(p.text, func(r rune) bool { return r < ' ' }) {
				t.Errorf("a problem that cannot be shown: %s %q", p.reason, p.text)
			}
		}
		if len(problems) > 0 {
			return
		}
		checkRequest(t, req)
		written := writeAnnotations(req, annotations)
		again, againProblems = parse(written, cfg)
		if len(againProblems) > 0 {
			t.Fatalf("what was taken is refused when it is written down: %v\n%v", againProblems, written)
		}
		req.warnings, again.warnings = nil, nil // Written down, every token has its own settings.
		if diff := cmp.Diff(req, again, exported, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("parsing what was taken gives another request (-first +second):\n%s", diff)
		}
	})
}

// checkRequest checks what the sidecar and the kubelet rely on.
func checkRequest(t *testing.T, req *request) {
	t.Helper()
	if len(req.tokens) == 0 || len(req.tokens) > 16 {
		t.Errorf("%d tokens", len(req.tokens))
	}
	used := map[string]bool{}
	for i, token := range req.tokens {
		if i > 0 && req.tokens[i-1].name >= token.name {
			t.Errorf("the token %q is not in its place", token.name)
		}
		if len(token.audiences) == 0 || len(token.audiences) > 8 {
			t.Errorf("%d audiences", len(token.audiences))
		}
		if s := token.expirationSeconds; s < 600 || s > 86400 || s == 3607 {
			t.Errorf("expiration %d", s)
		}
		if path.Clean(token.path) != token.path || path.IsAbs(token.path) || strings.Contains(token.path, "..") && strings.HasPrefix(path.Base(token.path), "..") {
			t.Errorf("path %q", token.path)
		}
		for _, file := range token.extra {
			if used["path "+file.path] {
				t.Errorf("path %q twice", file.path)
			}
			used["path "+file.path] = true
		}
		for _, v := range token.variables {
			if strings.Contains(v.value, "$") || v.value == "" || used["env "+v.name] && v.name != token.env {
				t.Errorf("variable %q: %q", v.name, v.value)
			}
			used["env "+v.name] = v.name != token.env
		}
		if used["path "+token.path] || token.env != "" && used["env "+token.env] {
			t.Errorf("path %q or variable %q twice", token.path, token.env)
		}
		used["path "+token.path], used["env "+token.env] = true, true
		if token.mode != "" {
			if mode, err := strconv.ParseUint(token.mode, 8, 16); err != nil || len(token.mode) != 4 || mode&0o400 == 0 || mode&^0o755 != 0 {
				t.Errorf("mode %q", token.mode)
			}
		}
	}
	for _, want := range req.withModes("0400") {
		written := config.FormatToken(want)
		got, err := config.ParseToken(written)
		if diff := cmp.Diff(string(mustJSON(want)), string(mustJSON(got))); err != nil || diff != "" || strings.Contains(written, "$") {
			t.Errorf("the sidecar makes something else of %s: %v\n%s", written, err, diff)
		}
	}
	if err := (&config.Config{Pod: config.Pod{Namespace: "a", Name: "a", UID: "a", ServiceAccount: "a"}, Tokens: req.withModes("0400"), Notify: req.notify}).Validate(); err != nil {
		t.Errorf("the sidecar refuses its configuration: %v", err)
	}
	if req.notifySignal != "" {
		if _, err := config.ParseSignal(req.notifySignal); err != nil {
			t.Errorf("the sidecar refuses the signal: %v", err)
		}
	}
	if !path.IsAbs(req.mountPath) || path.Clean(req.mountPath) != req.mountPath || strings.ContainsAny(req.mountPath, ":$") {
		t.Errorf("mount path %q", req.mountPath)
	}
	if strings.Contains(req.notify+req.notifySignal, "$") {
		t.Errorf("%q or %q would be expanded by the kubelet", req.notify, req.notifySignal)
	}
}

// writeAnnotations is the inverse of parse.
func writeAnnotations(req *request, original map[string]string) map[string]string {
	annotations := map[string]string{
		"podtoken.dev/mount-path": req.mountPath,
		"podtoken.dev/refresh-at": fmt.Sprintf("%d%%", req.refreshAtPercent),
		"podtoken.dev/wait":       req.wait,
		"podtoken.dev/readiness":  strconv.FormatBool(req.readiness),
		"podtoken.dev/delivery":   map[bool]string{false: "sidecar", true: "projected"}[req.projected],
	}
	set := func(key, value string) {
		if value != "" {
			annotations["podtoken.dev/"+key] = value
		}
	}
	set("containers", strings.Join(req.containers, ","))
	set("skip-containers", strings.Join(req.skipContainers, ";"))
	set("notify", req.notify)
	set("notify-signal", req.notifySignal)
	if req.metricsPort != 0 {
		set("metrics-port", strconv.Itoa(int(req.metricsPort)))
	}
	if req.resources != nil {
		set("sidecar-resources", string(mustJSON(req.resources)))
	}
	for _, token := range req.tokens {
		set("audience."+token.name, strings.Join(token.audiences, "\n"))
		set("expiration."+token.name, strconv.FormatInt(token.expirationSeconds, 10))
		set("path."+token.name, token.path)
		set("env."+token.name, token.env)
		if token.env == "" {
			set("env."+token.name, "none")
		}
		set("file-mode."+token.name, token.mode)
	}
	// What is made of formats and presets does not tell what they were.
	for key, value := range original {
		base, _, suffixed := strings.Cut(strings.TrimPrefix(key, "podtoken.dev/"), ".")
		if suffixed && !slices.Contains([]string{"audience", "expiration", "path", "env", "file-mode"}, base) {
			annotations[key] = value
		}
	}
	if _, ok := original["podtoken.dev/profile"]; ok {
		set("profile", original["podtoken.dev/profile"])
	}
	return annotations
}

// FuzzMutate: for any pod that an API server could send, the patch applies, only adds, is the same every time, and makes a
// pod for which a second call does nothing; and Mutate does not change its input.
func FuzzMutate(f *testing.F) {
	for i, seed := range annotationSeeds {
		f.Add(seed, []byte{byte(i)}, `{}`)
		f.Add(seed, []byte("\x02\x03\x01\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"+strings.Repeat(string(rune('0'+i)), 40)), `{"future": [1, {"a": null}]}`)
	}
	cfg := parsedConfig(f, fuzzConfig)
	f.Fuzz(func(t *testing.T, annotations string, shape []byte, unknown string) {
		checkMutate(t, cfg, fuzzedPod(annotationLines(annotations), shape, unknown))
	})
}

// TestMutateRandomPods is FuzzMutate for a fixed set of pods of all shapes, so that every test run has it.
func TestMutateRandomPods(t *testing.T) {
	cfg := parsedConfig(t, fuzzConfig)
	random := rand.New(rand.NewPCG(1, 2))
	outcomes := map[api.Outcome]int{}
	for range 1000 {
		shape := make([]byte, 60)
		for i := range shape {
			if random.IntN(3) == 0 { // Zeros are the plain choices: else nearly every pod has a conflict.
				shape[i] = byte(random.Uint32())
			}
		}
		annotations := annotationLines(annotationSeeds[random.IntN(len(annotationSeeds)-2)])
		outcomes[checkMutate(t, cfg, fuzzedPod(annotations, shape, `{"deep": [1]}`))]++
	}
	if outcomes["Injected"] < 200 || outcomes["Denied"] < 200 {
		t.Errorf("the pods are not of all kinds: %v", outcomes)
	}
}

func checkMutate(t *testing.T, cfg *Config, data []byte) api.Outcome {
	t.Helper()
	pod, err := tryDecodePod(data)
	if err != nil {
		t.Skip()
	}
	in := Input{Pod: pod, Namespace: "default", Operation: "CREATE", Config: cfg, APIServerAudiences: apiServerAudiences, Version: "v0.1.0"}
	got := Mutate(in)
	if again := Mutate(in); !reflect.DeepEqual(got, again) {
		t.Fatalf("another answer for the same pod: %v, %v", got, again)
	}
	if fresh := decodePod(t, data); !reflect.DeepEqual(fresh, pod) {
		t.Fatal("Mutate changed its input")
	}
	if got.Outcome != api.OutcomeInjected {
		return got.Outcome
	}
	after := applyJSON(t, data, got.Patch)
	checkEncoded(t, in)
	checkOnlyAdded(t, data, after)
	in.Pod = decodePod(t, after)
	checkSecondRun(t, in)
	checkLaterContainer(t, in, after)
	return got.Outcome
}

// checkLaterContainer checks a call after another webhook appended a container and prepended an init container.
func checkLaterContainer(t *testing.T, in Input, injected []byte) {
	t.Helper()
	changed := applyJSON(t, injected, []byte(`[
		{"op": "add", "path": "/spec/containers/-", "value": {"name": "later", "securityContext": {"runAsUser": 77}}},
		{"op": "test", "path": "/spec/containers/0/name", "value": "c0"}
	]`))
	if in.Pod.Spec.InitContainers != nil {
		changed = applyJSON(t, changed, []byte(`[{"op": "add", "path": "/spec/initContainers/0", "value": {"name": "earlier", "future": 1}}]`))
	}
	in.Pod = decodePod(t, changed)
	got := Mutate(in)
	if got.Outcome == api.OutcomeDenied {
		t.Fatalf("containers were added, and the pod is denied: %s", got.Message)
	}
	after := applyJSON(t, changed, got.Patch)
	checkOnlyAdded(t, changed, after)
	in.Pod = decodePod(t, after)
	checkSecondRun(t, in)
	if init := in.Pod.Spec.InitContainers; got.Reason == api.ReasonSidecar && init[0].Name != "podtoken" {
		t.Errorf("the first init container is %q", init[0].Name)
	}
}

// FuzzDecode: no JSON makes decoding or Mutate panic, whatever its types are.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"metadata": {"annotations": {"podtoken.dev/audience": "a"}}, "spec": {"containers": [{"name": "app"}]}}`))
	f.Add([]byte(`{"metadata": {"annotations": {"podtoken.dev/audience": "a"}}, "spec": {"initContainers": [null, {"name": "podtoken", "env": null}], "containers": [null, {}]}}`))
	f.Add([]byte(`{"metadata": {"annotations": {"podtoken.dev/audience": "a", "podtoken.dev/delivery": "projected"}}, "spec": {"volumes": [{"name": "podtoken", "projected": {}}], "containers": [{"name": "app"}]}}`))
	cfg := parsedConfig(f, defaultConfig)
	f.Fuzz(func(t *testing.T, data []byte) {
		pod, err := tryDecodePod(bytes.TrimSpace(data))
		if err != nil {
			return
		}
		if got := Mutate(Input{Pod: pod, Operation: "CREATE", Config: cfg}); got.Outcome == "" || got.Reason == "" || got.Message == "" {
			t.Errorf("an incomplete answer: %+v", got)
		}
	})
}
