package main

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestServesReviews(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			response, body, err := p.review(review, http2)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != http.StatusOK || !strings.Contains(body, `"allowed":true`) || !strings.Contains(body, `"patch":`) {
				t.Errorf("got %d %s", response.StatusCode, body)
			}
			if got := response.ProtoMajor; got == 2 != http2 {
				t.Errorf("HTTP/%d", got)
			}
		})
	}
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
		if !strings.Contains(p.log.String(), `"problem":"http: TLS handshake error`) {
			return errors.New("it is not")
		}
		return nil
	})
}

func TestNewCertificateIsServed(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	serves := func(serial int64) func() error {
		return func() error {
			connection, err := p.dial(t, nil)
			if err != nil {
				return err
			}
			if got := connection.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != serial {
				return fmt.Errorf("serial %d, want %d", got, serial)
			}
			return nil
		}
	}
	eventually(t, "the first certificate", serves(1))
	p.writePair(t, 2, time.Now().Add(time.Hour))
	eventually(t, "the second certificate", serves(2))

	p.write(t, "tls.key", "not a key")
	eventually(t, "the bad pair is counted", func() error { return p.hasMetric("podtoken_certificate_last_reload_successful 0") })
	if err := errors.Join(serves(2)(), p.ready()); err != nil {
		t.Errorf("with a bad pair on disk: %v", err)
	}
	notAfter := time.Now().Add(3 * time.Hour)
	p.writePair(t, 3, notAfter)
	eventually(t, "the third certificate", serves(3))
	if err := p.hasMetric("podtoken_certificate_expiry_timestamp_seconds " + strconv.FormatFloat(float64(notAfter.Unix()), 'g', -1, 64)); err != nil {
		t.Error(err)
	}
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

func TestNewConfigurationIsUsed(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	injects := func(image string) func() error {
		return func() error {
			_, body, err := p.review(review, false)
			if err != nil {
				return err
			}
			var answer struct{ Response struct{ Patch []byte } }
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				return err
			}
			if !strings.Contains(string(answer.Response.Patch), image) {
				return fmt.Errorf("no %q in the patch %s", image, base64.StdEncoding.EncodeToString(answer.Response.Patch))
			}
			return nil
		}
	}
	eventually(t, "the first configuration", injects("podtoken/sidecar:v1"))
	p.write(t, "config.yaml", nextConfig)
	eventually(t, "the second configuration", injects("podtoken/sidecar:v2"))

	p.write(t, "config.yaml", badConfig)
	eventually(t, "the bad one is counted", func() error { return p.hasMetric(`podtoken_config_reloads_total{result="failure"} 1`) })
	if err := errors.Join(injects("podtoken/sidecar:v2")(), p.ready()); err != nil {
		t.Errorf("with a bad configuration on disk: %v", err)
	}
	if got := strings.Count(p.log.String(), "Files refused"); got != 1 {
		t.Errorf("the refusal is in the log %d times, want 1", got)
	}
	p.write(t, "config.yaml", goodConfig)
	eventually(t, "the first configuration again", injects("podtoken/sidecar:v1"))
}

// A request that is in flight when the process is told to stop is answered, although its body comes later; meanwhile the
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
	if err := p.notReady("draining: ", "tls: connecting to "); err != nil {
		t.Error(err)
	}

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
		"webhook address in use": {
			spoil: func(t *testing.T, p *process) { p.webhook = p.http },
			want:  `serving on --webhook-bind-address: listen tcp .*: address already in use`,
		},
		"address of somebody else": {
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
			err := run(t.Context(), append(args, test.args...), io.Discard)
			if err == nil || !regexp.MustCompile(strings.ReplaceAll(test.want, "DIR", regexp.QuoteMeta(p.dir))).MatchString(err.Error()) {
				t.Errorf("run() = %v, want %s", err, test.want)
			}
		})
	}
}
