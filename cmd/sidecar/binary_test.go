package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/inherited"
	"github.com/podtoken/podtoken/internal/servertest"
	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// buildDir is where the binary is built.
var buildDir string

// buildBinary builds the binary as it is shipped, once for all tests.
var buildBinary = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(buildDir, "podtoken-sidecar")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, output)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	inherited.Signals()
	dir, err := os.MkdirTemp("", "podtoken-sidecar-")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// pod is a directory, a fake API server, and the real binary between them.
type pod struct {
	t           testing.TB
	binary      string
	server      *fakeapi.Server
	dir, apiDir string
	termination string
	// flags of run, besides those that every test needs.
	flags []string

	// output is everything that any process of the test said.
	output *servertest.Buffer
	log    *servertest.Buffer // of the latest run
	run    *exec.Cmd
	exited chan int
}

func newPod(t testing.TB) *pod {
	t.Helper()
	binary, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	server := fakeapi.Start(t)
	p := &pod{
		t: t, binary: binary, server: server, dir: t.TempDir(), apiDir: server.CredentialDir(t),
		termination: filepath.Join(t.TempDir(), "termination-log"), output: new(servertest.Buffer),
	}
	t.Cleanup(p.kill)
	return p
}

const (
	vault   = `{"name":"vault","audiences":["vault","https://kubernetes.default.svc"],"expirationSeconds":3600,"path":"vault","mode":"0400","refreshAtPercent":80}`
	billing = `{"name":"billing","audiences":["https://billing.example.com"],"expirationSeconds":600,"path":"deep/er/billing.jwt","mode":"0440","refreshAtPercent":20}`
)

// start starts run with the tokens.
func (p *pod) start(tokens ...string) {
	p.t.Helper()
	p.kill()
	args := append([]string{"run", "--termination-log=" + p.termination, "--dir=" + p.dir, "--api-dir=" + p.apiDir}, p.flags...)
	for _, token := range tokens {
		args = append(args, "--token="+token)
	}
	p.log = new(servertest.Buffer)
	cmd := exec.Command(p.binary, args...)
	cmd.Env = []string{
		"PODTOKEN_POD_NAME=" + fakeapi.PodName, "PODTOKEN_POD_NAMESPACE=" + fakeapi.Namespace,
		"PODTOKEN_POD_UID=" + fakeapi.PodUID, "PODTOKEN_SERVICE_ACCOUNT=" + fakeapi.ServiceAccount,
		"KUBERNETES_SERVICE_HOST=" + p.server.Host, "KUBERNETES_SERVICE_PORT=" + p.server.Port,
		// With this Go's HTTP client logs the headers of all requests.
		"GODEBUG=http2debug=2",
		// Nobody listens there: whoever goes through the proxy fails.
		"HTTPS_PROXY=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "ALL_PROXY=http://127.0.0.1:1",
	}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.run, p.exited = cmd, make(chan int, 1)
	go func(exited chan int) {
		_ = cmd.Wait()
		exited <- cmd.ProcessState.ExitCode()
	}(p.exited)
}

// stop sends the signal and returns the exit code.
func (p *pod) stop(signal os.Signal) int {
	p.t.Helper()
	if err := p.run.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	return p.exit()
}

func (p *pod) exit() int {
	p.t.Helper()
	select {
	case code := <-p.exited:
		p.forget()
		return code
	case <-time.After(5 * time.Second):
		p.t.Fatal("run did not exit")
		return -1
	}
}

func (p *pod) kill() {
	if p.run != nil {
		_ = p.run.Process.Kill()
		<-p.exited
		p.forget()
	}
}

func (p *pod) forget() {
	p.run = nil
	_, _ = p.output.Write([]byte(p.log.String()))
}

// command runs another command to its end.
func (p *pod) command(args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	var out, errout bytes.Buffer
	cmd := exec.Command(p.binary, args...)
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &out, &errout
	_ = cmd.Run()
	_, _ = p.output.Write(out.Bytes())
	_, _ = p.output.Write(errout.Bytes())
	return cmd.ProcessState.ExitCode(), out.String(), errout.String()
}

// eventually polls until the condition holds.
func (p *pod) eventually(what string, condition func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("never happened: %s\n%s", what, p.log)
		}
	}
}

// token reads a token file as an application does, and its mode.
func (p *pod) token(path string) (content string, claims jwt.Claims, mode string) {
	p.t.Helper()
	name := filepath.Join(p.dir, path)
	data, err := os.ReadFile(name)
	if err != nil {
		p.t.Fatal(err)
	}
	claims, err = jwt.Parse(string(data))
	if err != nil {
		p.t.Fatalf("%s: %v", path, err)
	}
	info, err := os.Lstat(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data), claims, fmt.Sprintf("%04o", info.Mode().Perm())
}

func (p *pod) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(p.dir, path))
	return err == nil
}

// terminationMessage is what the kubelet would show.
func (p *pod) terminationMessage() string {
	content, err := os.ReadFile(p.termination)
	if err != nil {
		return ""
	}
	_, _ = p.output.Write(content)
	return string(content)
}

// wantNoSecrets looks for every token and credential in everything that was said.
func (p *pod) wantNoSecrets(credentials ...string) {
	p.t.Helper()
	p.kill()
	p.terminationMessage()
	status, _ := os.ReadFile(filepath.Join(p.dir, ".podtoken-status.json"))
	said := p.output.String() + string(status)
	for _, secret := range append(p.server.Issued(), credentials...) {
		for i, segment := range strings.Split(secret, ".") {
			if i > 0 && strings.Contains(said, segment) {
				p.t.Errorf("a part of a token or credential was said:\n%s", said)
				return
			}
		}
	}
}
