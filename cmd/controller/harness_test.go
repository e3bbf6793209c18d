package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/servertest"
)

const guardYAML = `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: podtoken-guard}, spec: {failurePolicy: Fail}}`

const guardBindingYAML = `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: podtoken-guard},
  spec: {policyName: podtoken-guard, validationActions: [Deny, Audit]}}`

const policyYAML = `apiVersion: podtoken.dev/v1alpha1
kind: PolicyConfiguration
allow:
  - namespaces: ["*"]
    serviceAccounts: ["*"]
    audiences: ["vault", "sts.example.com"]
`

// binary builds the program once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	directory, err := os.MkdirTemp("", "podtoken-controller-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(directory, "podtoken-controller")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // As the images are built: what they are made of is compiled once.
	output, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, output)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// process is a running podtoken-controller.
type process struct {
	*exec.Cmd
	address string
	policy  string
	log     *servertest.Buffer
	ended   chan struct{}
}

// start runs the controller against the fake API server until the test ends.
func start(t *testing.T, f *fakeAPI, args ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	p := &process{address: servertest.FreeAddress(t), policy: filepath.Join(directory, "policy.yaml"), log: &servertest.Buffer{}, ended: make(chan struct{})}
	token := filepath.Join(directory, "token")
	write(t, p.policy, policyYAML)
	write(t, token, tokenFor("https://kubernetes.default.svc"))
	p.Cmd = exec.Command(path, append([]string{
		"--kubeconfig=" + f.kubeconfig(t), "--policy=" + p.policy, "--identity-token=" + token, "--http-bind-address=" + p.address,
		"--leader-election-namespace=podtoken-system", "--reload-interval=20ms", "--withdrawal-delay=10ms",
	}, args...)...)
	p.Cmd.Stderr = p.log
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("log of the controller:\n%s", tail(p.log.String(), 30))
		}
	})
	return p
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// stop asks the controller to end and waits for it.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the controller did not end within 20 s")
	}
}

// fetch returns the status and body of a page of the plain server.
func (p *process) fetch(path string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// metric returns the line of a metric, without its name.
func (p *process) metric(name string) string {
	_, body := p.fetch("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, limit time.Duration, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tokenFor returns a token of our own for an API server with that audience. Its signature is none.
func tokenFor(audience string) string {
	encode := base64.RawURLEncoding.EncodeToString
	payload := fmt.Sprintf(`{"aud":[%q],"iat":1700000000,"exp":4000000000,`+
		`"kubernetes.io":{"namespace":"podtoken-system","serviceaccount":{"name":"podtoken-controller"}}}`, audience)
	return strings.Join([]string{encode([]byte(`{"kid":"k"}`)), encode([]byte(payload)), encode([]byte("none"))}, ".")
}

// padding makes a pod as large as one is in a cluster, some 8 kB.
var padding = strings.Repeat("f:status f:conditions ", 300)

// podYAML is an injected pod.
func podYAML(namespace, name, serviceAccount, audience string, seconds int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  namespace: %s
  name: %s
  creationTimestamp: %q
  labels: {podtoken.dev/injected: "true", app: some-application}
  annotations: {podtoken.dev/audience: edited-later, example.com/padding: %q}
  managedFields: [{manager: kubelet, operation: Update, apiVersion: v1, time: "2026-01-01T00:00:00Z", fieldsType: FieldsV1, fieldsV1: {"f:status": {}}}]
spec:
  serviceAccountName: %s
  initContainers:
  - name: podtoken
    image: registry.example/podtoken/sidecar:v1
    restartPolicy: Always
    args: ['--token={"name":"token","audiences":[%q],"expirationSeconds":%d,"path":"token","mode":"0400","refreshAtPercent":80}', --metrics-port=9090]
  containers:
  - {name: app, image: "registry.example/app:v1", env: [{name: A, value: b}]}
status: {phase: Running}
`, namespace, name, time.Now().UTC().Format(time.RFC3339), padding, serviceAccount, audience, seconds)
}

func serviceAccountYAML(namespace, name string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: %s, name: %s}}", namespace, name)
}
