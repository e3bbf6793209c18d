package mutate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
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
	"audience.a=a\naudience.b=b\naudience.c-d=c\nenv.a=none\nwait=false\nrefresh-at=20%\nmount-path=/etc/tokens\nmetrics-port=9102\nreadiness=true",
	"audience.a=a\ncontainers=c0 c1\nskip-containers=i0\nnotify=http://localhost:8080/reload\nnotify-signal=SIGHUP:nginx\ndelivery=sidecar\ninject=true",
	"audience.a=a\nexpiration.a=2h\ndelivery=projected\nsidecar-resources={\"requests\":{\"cpu\":\"1m\"}}",
	"audience.a=$(HOME)\nsidecar-resources={\"limits\":{\"memory\":\"16Mi\"}}\nstatus={}",
	"audiance.a=a\npath=x\nwait.a=true\naudience.A_b=x\nexpiration=1\nfile-mode=0666\nmount-path=/\nnotify=http://x/\ninject=maybe",
}

// FuzzParse: the parser never panics, reports the same for the same, and what it takes keeps its own rules and is the same
// when it is written down and parsed again.
func FuzzParse(f *testing.F) {
	for _, seed := range annotationSeeds {
		f.Add(seed)
	}
	limits := &parsedConfig(f, defaultConfig).Tokens
	exported := cmp.AllowUnexported(request{}, tokenRequest{}, problem{})
	f.Fuzz(func(t *testing.T, text string) {
		annotations := annotationLines(text)
		req, problems := parse(annotations, limits)
		again, againProblems := parse(annotations, limits)
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
		written := writeAnnotations(req)
		again, againProblems = parse(written, limits)
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
		written := argument(want)
		got, err := config.ParseToken(written)
		if diff := cmp.Diff(want, got); err != nil || diff != "" || strings.Contains(written, "$") {
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
func writeAnnotations(req *request) map[string]string {
	annotations := map[string]string{
		"podtoken.dev/mount-path": req.mountPath,
		"podtoken.dev/refresh-at": fmt.Sprintf("%d%%", req.refreshAtPercent),
		"podtoken.dev/wait":       strconv.FormatBool(req.wait),
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
	return annotations
}

// FuzzMutate: for any pod that an API server could send, the patch applies, only adds, is the same every time, and makes a
// pod for which a second call does nothing; and Mutate does not change its input.
func FuzzMutate(f *testing.F) {
	for i, seed := range annotationSeeds {
		f.Add(seed, []byte{byte(i)}, `{}`)
		f.Add(seed, []byte("\x02\x03\x01\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"+strings.Repeat(string(rune('0'+i)), 40)), `{"future": [1, {"a": null}]}`)
	}
	cfg := parsedConfig(f, defaultConfig)
	f.Fuzz(func(t *testing.T, annotations string, shape []byte, unknown string) {
		checkMutate(t, cfg, fuzzedPod(annotationLines(annotations), shape, unknown))
	})
}

// TestMutateRandomPods is FuzzMutate for a fixed set of pods of all shapes, so that every test run has it.
func TestMutateRandomPods(t *testing.T) {
	cfg := parsedConfig(t, defaultConfig)
	random := rand.New(rand.NewPCG(1, 2))
	outcomes := map[api.Outcome]int{}
	for range 1000 {
		shape := make([]byte, 60)
		for i := range shape {
			if random.IntN(3) == 0 { // Zeros are the plain choices: else nearly every pod has a conflict.
				shape[i] = byte(random.Uint32())
			}
		}
		annotations := annotationLines(annotationSeeds[random.IntN(5)])
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

// fuzzedPod builds a pod out of bytes. The unknown JSON, when it is valid, is put on every object.
func fuzzedPod(annotations map[string]string, shape []byte, unknown string) []byte {
	b := &shapeReader{shape: shape}
	if json.Valid([]byte(unknown)) {
		b.unknown = json.RawMessage(unknown)
	}
	metadata := b.object(map[string]any{"name": "app"})
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	switch b.next(4) {
	case 1:
		metadata["labels"] = map[string]string{}
	case 2:
		metadata["labels"] = map[string]string{"app": "web", "podtoken.dev/injected": b.pick("true", "", "false")}
	case 3:
		metadata["labels"] = nil
	}
	if b.next(3) == 1 && annotations != nil {
		annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] = b.pick("", "a", "a,podtoken", ",a", "podtoken-api")
	}
	spec := b.object(map[string]any{})
	spec["containers"] = b.list(1+b.next(3), func(i int) any { return b.container("c", i) })
	if n := b.next(4); n > 0 {
		spec["initContainers"] = b.list(n-1, func(i int) any { return b.container("i", i) })
	}
	if n := b.next(4); n > 0 {
		spec["volumes"] = b.list(n-1, func(int) any {
			volume := map[string]any{"name": b.pick("data", "cache", "podtoken", "podtoken-api")}
			switch b.next(3) {
			case 1:
				volume["emptyDir"] = map[string]any{"medium": "Memory", "sizeLimit": b.pick("1Mi", "1024Ki", "2Mi")}
			case 2:
				volume["projected"] = map[string]any{"sources": []any{}}
			}
			return b.object(volume)
		})
	}
	spec["hostNetwork"] = b.next(3) == 1
	spec["shareProcessNamespace"] = b.next(2) == 1
	if b.next(2) == 1 {
		spec["securityContext"] = b.object(map[string]any{"runAsUser": b.next(3), "fsGroup": b.next(2)})
	}
	if b.next(4) == 1 {
		spec["resources"] = map[string]any{"limits": map[string]any{"cpu": b.next(2)}}
	}
	return mustJSON(b.object(map[string]any{"metadata": metadata, "spec": spec}))
}

// shapeReader makes choices out of bytes, and the first choice each time when there are no more.
type shapeReader struct {
	shape   []byte
	unknown json.RawMessage
}

func (b *shapeReader) next(n int) int {
	if len(b.shape) == 0 {
		return 0
	}
	choice := int(b.shape[0]) % n
	b.shape = b.shape[1:]
	return choice
}

func (b *shapeReader) pick(choices ...string) string { return choices[b.next(len(choices))] }

func (b *shapeReader) list(n int, element func(i int) any) []any {
	elements := []any{}
	for i := range n {
		elements = append(elements, element(i))
	}
	return elements
}

func (b *shapeReader) object(fields map[string]any) map[string]any {
	if b.unknown != nil {
		fields["futureField"] = b.unknown
	}
	return fields
}

func (b *shapeReader) container(prefix string, i int) any {
	c := b.object(map[string]any{"name": prefix + strconv.Itoa(i)})
	if n := b.next(4); n > 0 {
		c["env"] = b.list(n-1, func(int) any {
			return b.object(map[string]any{"name": b.pick("A", "A_TOKEN_FILE", "V", "TOKEN_TOKEN_FILE"), "value": b.pick("", "/var/run/secrets/podtoken.dev/a", "x")})
		})
	}
	if n := b.next(4); n > 0 {
		c["volumeMounts"] = b.list(n-1, func(int) any {
			mount := map[string]any{
				"name":      b.pick("data", "podtoken", "podtoken-api", "cache"),
				"mountPath": b.pick("/data", "/var/run/secrets/podtoken.dev", "/var/run/secrets/podtoken.dev/a", "/etc/tokens/", "/var/run"),
				"readOnly":  b.next(2) == 0,
			}
			if b.next(4) == 1 {
				mount["subPath"] = "x"
			}
			return b.object(mount)
		})
	}
	if b.next(3) == 1 {
		c["securityContext"] = b.object(map[string]any{"runAsUser": b.next(4), "seLinuxOptions": map[string]any{"level": b.pick("s0", "s1")}})
	}
	if b.next(3) == 1 {
		c["resources"] = map[string]any{"limits": map[string]any{"cpu": "1", "memory": "1Gi"}, "requests": map[string]any{"cpu": b.next(3)}}
	}
	if b.next(4) == 1 {
		c["ports"] = []any{map[string]any{"containerPort": 9102, "protocol": b.pick("TCP", "UDP")}}
	}
	return c
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
