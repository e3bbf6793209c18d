package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestServesReviews(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2 is offered": true} {
		t.Run(name, func(t *testing.T) {
			response, body, err := p.review(review, http2)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != http.StatusOK || !strings.Contains(body, `"allowed":true`) || !strings.Contains(body, `"patch":`) {
				t.Errorf("got %d %s", response.StatusCode, body)
			}
			if response.ProtoMajor != 1 {
				t.Errorf("HTTP/%d: with HTTP/2 one connection would be many callers", response.ProtoMajor)
			}
		})
	}
	t.Run("HTTP/2 only", func(t *testing.T) {
		if _, err := p.dial(t, func(c *tls.Config) { c.NextProtos = []string{"h2"} }); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("dial: %v, want no application protocol", err)
		}
	})
	if err := p.hasMetric(`podtoken_admission_reviews_total{outcome="Injected",reason="Sidecar"} 2`); err != nil {
		t.Error(err)
	}
	if code, body, err := p.get("/healthz"); code != http.StatusOK || body != "ok\n" || err != nil {
		t.Errorf("/healthz: %d %q %v", code, body, err)
	}
	if code, _, err := p.get("/mutate"); code != http.StatusNotFound || err != nil {
		t.Errorf("/mutate on the plain port: %d %v, want 404", code, err)
	}
}

// The side that sends requests must be the first to close an idle connection: API servers have the idle timeout of
// http.DefaultTransport (SetTransportDefaults in k8s.io/apimachinery@v0.37.2/pkg/util/net/http.go).
func TestIdleConnectionsAreClosedByTheirClients(t *testing.T) {
	p, args := prepare(t)
	options, err := parseOptions(args, p.log)
	if err != nil {
		t.Fatal(err)
	}
	theirs := http.DefaultTransport.(*http.Transport).IdleConnTimeout
	if ours := newServer(options, p.log).webhook.IdleTimeout; ours < theirs+10*time.Second {
		t.Errorf("the webhook closes idle connections after %s, API servers after %s", ours, theirs)
	}
}

func TestServesOnlyTLS13(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	connection, err := p.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if state := connection.ConnectionState(); state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("version %x, protocol %q, want TLS 1.3 and http/1.1", state.Version, state.NegotiatedProtocol)
	}
	if _, err := p.dial(t, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err == nil {
		t.Error("TLS 1.2 is served")
	}
	eventually(t, "the failed handshake is logged", func() error {
		if !regexp.MustCompile(`"TLS handshake failed","remoteAddress":"127.0.0.1:[0-9]+","error":"tls: client offered only unsupported versions`).MatchString(p.log.String()) {
			return errors.New("it is not")
		}
		return nil
	})
}

func TestNotReadyUntilItCanServe(t *testing.T) {
	p, args := prepare(t)
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p.start(t, args)
	eventually(t, "no certificate", func() error { return p.notReady("tls: no serving certificate was read yet") })
	p.writePair(t, 1, time.Now().Add(-time.Hour))
	eventually(t, "expired certificate", func() error { return p.notReady("tls: the serving certificate expired at ") })
	p.writePair(t, 2, time.Now().Add(time.Hour))
	eventually(t, "ready", p.ready)
}

// A request that is in flight when the process is stopped is answered, although its body arrives later; until then the
// replica is not ready, answers others, and asks them to close.
func TestDrains(t *testing.T) {
	p, args := prepare(t, "--drain-delay=300ms")
	p.start(t, args)
	eventually(t, "ready", p.ready)

	inFlight, err := p.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(inFlight, "POST /mutate?timeout=30s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		len(review), review[:100])
	eventually(t, "in flight", func() error { return p.hasMetric("podtoken_admission_reviews_in_flight 1") })

	p.stop()
	eventually(t, "not ready", func() error { return p.notReady("draining: the process is shutting down") })
	response, body, err := p.review(review, false)
	if err != nil || response.StatusCode != http.StatusOK || !response.Close || !strings.Contains(body, `"patch":`) {
		t.Errorf("while draining: %v %v %s", response, err, body)
	}
	eventually(t, "the listener is closed", func() error {
		if connection, err := p.dial(t, nil); err == nil {
			_ = connection.Close()
			return errors.New("it is open")
		}
		return nil
	})
	eventually(t, "the closed listener is seen", func() error { return p.notReady("draining: ", "tls: connecting to ") }) // in a second

	if _, err := io.WriteString(inFlight, review[100:]); err != nil {
		t.Fatal(err)
	}
	late, err := http.ReadResponse(bufio.NewReader(inFlight), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(late.Body); err != nil || late.StatusCode != http.StatusOK || !late.Close || !strings.Contains(string(text), `"patch":`) {
		t.Errorf("the request in flight: %v %v %s", late, err, text)
	}
	if err := p.wait(t); err != nil {
		t.Errorf("run() = %v", err)
	}
	if !strings.Contains(p.log.String(), `"msg":"Stopped"`) {
		t.Error("no last line in the log")
	}
}

func TestRunFailsAtOnce(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, p *process)
		args  []string
		want  string
	}{
		"bad configuration": {
			spoil: func(t *testing.T, p *process) { p.write(t, "config.yaml", badConfig) },
			want:  `loading the configuration: reading "DIR/config.yaml": .*unknown field "imag".*; correct the file`,
		},
		"no configuration": {
			spoil: func(t *testing.T, p *process) {
				if err := os.Remove(filepath.Join(p.dir, "config.yaml")); err != nil {
					t.Fatal(err)
				}
			},
			want: `loading the configuration: reading "DIR/config.yaml": open DIR/config.yaml: no such file or directory; correct the file`,
		},
		"bad policy": {
			spoil: func(t *testing.T, p *process) { p.write(t, "policy.yaml", badPolicy) },
			want:  `loading the policy: reading "DIR/policy.yaml": parsing policy: unknown field "alow"; correct the file`,
		},
		"no policy": {
			args: []string{"--policy=/nowhere/policy.yaml"},
			want: `loading the policy: reading "/nowhere/policy.yaml": open /nowhere/policy.yaml: no such file or directory; correct the file`,
		},
		"no token": {
			args: []string{"--identity-token=/nowhere/token"},
			want: `loading our own token: reading "/nowhere/token": open /nowhere/token: no such file or directory; the file must hold a ServiceAccount token`,
		},
		"a token that is none": {
			spoil: func(t *testing.T, p *process) { p.write(t, "token", "x") },
			want:  `loading our own token: reading "DIR/token": a token has 3 segments, this has 1; the file must hold`,
		},
		"a CA of client certificates that is none": {
			spoil: func(t *testing.T, p *process) { p.write(t, "client-ca.crt", "-----BEGIN CERTIFICATE-----") },
			args:  []string{"--client-ca-file=DIR/client-ca.crt"},
			want:  `loading the CA of client certificates: reading "DIR/client-ca.crt": there is no certificate in PEM; the file must hold the certificates of the CA`,
		},
		"the CA's key, which does not belong there": {
			spoil: func(t *testing.T, p *process) {
				key, err := os.ReadFile(filepath.Join(p.dir, "tls.key"))
				if err != nil {
					t.Fatal(err)
				}
				p.write(t, "client-ca.crt", string(key))
			},
			args: []string{"--client-ca-file=DIR/client-ca.crt"},
			want: `loading the CA of client certificates: reading "DIR/client-ca.crt": a block of type "PRIVATE KEY" is not a CERTIFICATE; the file must hold`,
		},
		"webhook address in use": {
			spoil: func(t *testing.T, p *process) { p.webhook = p.http },
			want:  `listening on --webhook-bind-address: listen tcp .*: address already in use`,
		},
		"address of another process": {
			args: []string{"--http-bind-address=192.0.2.1:8080"},
			want: `listening on --http-bind-address: listen tcp 192.0.2.1:8080: .*`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, args := prepare(t)
			if test.spoil != nil {
				test.spoil(t, p)
			}
			args = append(args, "--webhook-bind-address="+p.webhook)
			for _, arg := range test.args {
				args = append(args, strings.ReplaceAll(arg, "DIR", p.dir))
			}
			err := run(t.Context(), args, io.Discard)
			if err == nil || !regexp.MustCompile(strings.ReplaceAll(test.want, "DIR", regexp.QuoteMeta(p.dir))).MatchString(err.Error()) {
				t.Errorf("run() = %v, want %s", err, test.want)
			}
		})
	}
}
