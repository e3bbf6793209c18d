package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/servertest"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

const (
	goodConfig = "apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar: {image: podtoken/sidecar:v1}\n"
	nextConfig = "apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar: {image: podtoken/sidecar:v2}\n"
	badConfig  = "apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar: {imag: podtoken/sidecar:v3}\n"

	goodPolicy = "apiVersion: podtoken.dev/v1alpha1\nkind: PolicyConfiguration\nallow: [{namespaces: [shop], serviceAccounts: [web], audiences: ['*']}]\n"
	nextPolicy = "apiVersion: podtoken.dev/v1alpha1\nkind: PolicyConfiguration\nallow: [{namespaces: [shop], serviceAccounts: [web], audiences: [other]}]\n"
	badPolicy  = "apiVersion: podtoken.dev/v1alpha1\nkind: PolicyConfiguration\nalow: []\n"

	review = `{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": {
			"uid": "u-1",
			"kind": {"group": "", "version": "v1", "kind": "Pod"},
			"resource": {"group": "", "version": "v1", "resource": "pods"},
			"namespace": "shop", "operation": "CREATE",
			"object": {
				"metadata": {"generateName": "web-", "annotations": {"podtoken.dev/audience.vault": "vault"}},
				"spec": {"serviceAccountName": "web", "containers": [{"name": "app"}]}
			}
		}
	}`
)

// process is the webhook, run inside the test.
type process struct {
	dir, webhook, http string // addresses without scheme
	log                *servertest.Buffer
	stop               context.CancelFunc
	done               chan error
}

// prepare makes a directory with the files of a webhook that can serve, and the arguments to run it.
func prepare(t *testing.T, more ...string) (p *process, args []string) {
	t.Helper()
	p = &process{dir: t.TempDir(), webhook: servertest.FreeAddress(t), http: servertest.FreeAddress(t), log: &servertest.Buffer{}}
	p.write(t, "config.yaml", goodConfig)
	p.write(t, "policy.yaml", goodPolicy)
	p.writeToken(t, "https://kubernetes.default.svc")
	p.writePair(t, 1, time.Now().Add(time.Hour))
	return p, append([]string{
		"--webhook-bind-address=" + p.webhook, "--http-bind-address=" + p.http,
		"--cert-dir=" + p.dir, "--config=" + filepath.Join(p.dir, "config.yaml"),
		"--policy=" + filepath.Join(p.dir, "policy.yaml"), "--identity-token=" + filepath.Join(p.dir, "token"),
		"--reload-interval=10ms", "--drain-delay=0s",
	}, more...)
}

// start runs the webhook until the test ends or stop is called.
func (p *process) start(t *testing.T, args []string) {
	t.Helper()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	p.stop, p.done = cancel, make(chan error, 1)
	go func() { p.done <- run(ctx, args, p.log) }()
	t.Cleanup(func() {
		cancel()
		if err := p.wait(t); err != nil {
			t.Errorf("run() = %v", err)
		}
		eventually(t, "no goroutine is left", func() error {
			if now := runtime.NumGoroutine(); now > before {
				stacks := make([]byte, 1<<20)
				return fmt.Errorf("%d goroutines, %d before:\n%s", now, before, stacks[:runtime.Stack(stacks, true)])
			}
			return nil
		})
		if t.Failed() {
			t.Logf("log:\n%s", p.log)
		}
	})
}

// wait returns what run returned.
func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(time.Minute):
		t.Fatal("run did not return")
		return nil
	}
}

func (p *process) write(t *testing.T, name, content string) {
	t.Helper()
	temporary := filepath.Join(p.dir, name+".new")
	if err := os.WriteFile(temporary, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(p.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// writeToken writes the webhook's own token, from an API server with one audience.
func (p *process) writeToken(t *testing.T, audience string) {
	t.Helper()
	p.write(t, "token", jwttest.Encode(jwt.Claims{Audiences: []string{audience}, IssuedAt: time.Now(), Expires: time.Now().Add(time.Hour)}))
}

func (p *process) writePair(t *testing.T, serial int64, notAfter time.Time) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	p.write(t, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// get reads a page of the plain HTTP server.
func (p *process) get(path string) (code int, body string, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + p.http + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// ready returns nil when /readyz answers 200.
func (p *process) ready() error {
	code, body, err := p.get("/readyz")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("/readyz: %d %s", code, body)
	}
	return err
}

// notReady returns nil when /readyz answers 503 with a text that has each of the parts.
func (p *process) notReady(parts ...string) error {
	code, body, err := p.get("/readyz")
	if err != nil {
		return err
	}
	for _, part := range parts {
		if code != http.StatusServiceUnavailable || !strings.Contains(body, part) {
			return fmt.Errorf("/readyz: %d %s, want 503 and %q", code, body, part)
		}
	}
	return nil
}

// hasMetric returns nil when /metrics has the line.
func (p *process) hasMetric(line string) error {
	_, body, err := p.get("/metrics")
	if err == nil && !strings.Contains("\n"+body, "\n"+line+"\n") {
		err = fmt.Errorf("/metrics has not %q", line)
	}
	return err
}

// dial does a TLS handshake with the webhook.
func (p *process) dial(t *testing.T, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if change != nil {
		change(config)
	}
	connection, err := tls.Dial("tcp", p.webhook, config)
	if err == nil {
		t.Cleanup(func() { _ = connection.Close() })
	}
	return connection, err
}

// review posts one review on a connection of its own.
func (p *process) review(body string, http2 bool) (*http.Response, string, error) {
	transport := &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: http2,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Post("https://"+p.webhook+"/mutate?timeout=5s", "application/json", strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, string(text), err
}

// answers returns a check that the answer to the review has each of the parts.
func (p *process) answers(body string, parts ...string) func() error {
	return func() error {
		_, answer, err := p.review(body, false)
		for _, part := range parts {
			if err == nil && !strings.Contains(answer, part) {
				err = fmt.Errorf("no %q in the answer %s", part, answer)
			}
		}
		return err
	}
}

// eventually polls until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
