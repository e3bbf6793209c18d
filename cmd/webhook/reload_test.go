package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

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

// A profile comes, changes and goes with the configuration; one that is wrong leaves the old ones in use.
func TestNewProfilesAreUsed(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	named := strings.Replace(review, `"podtoken.dev/audience.vault": "vault"`, `"podtoken.dev/profile": "team"`, 1)
	if named == review {
		t.Fatal("the review is not about an audience")
	}
	withProfile := func(settings string) string { return goodConfig + "profiles: {team: {" + settings + "}}\n" }
	unknown := p.answers(named, `"allowed":false`, `this installation has none`)
	eventually(t, "no profile", unknown)
	p.write(t, "config.yaml", withProfile("audience.vault: vault"))
	eventually(t, "the profile", p.answers(named, `"allowed":true`))
	if !strings.Contains(p.log.String(), `"profiles":["team"]`) {
		t.Errorf("the log does not name the profile: %s", p.log)
	}
	p.write(t, "config.yaml", withProfile("audience.vault: vault, format.vault: yaml"))
	eventually(t, "the bad one is counted", func() error { return p.hasMetric(`podtoken_config_reloads_total{result="failure"} 1`) })
	if err := errors.Join(p.answers(named, `"allowed":true`)(), p.ready()); err != nil {
		t.Errorf("with a bad profile on disk: %v", err)
	}
	if !strings.Contains(p.log.String(), `profiles[team]: podtoken.dev/format.vault: \"yaml\" is not a format`) {
		t.Errorf("the log does not say what is wrong with the profile: %s", p.log)
	}
	p.write(t, "config.yaml", goodConfig)
	eventually(t, "no profile again", unknown)
}

// A replica that has read nothing says so, one line each.
func TestNotReadyWithoutFiles(t *testing.T) {
	p, args := prepare(t)
	options, err := parseOptions(args, p.log)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(options, p.log)
	w := httptest.NewRecorder()
	s.serveReadyz(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	want := "config: no configuration was read yet\npolicy: no policy was read yet\n" +
		"identity: no token of our own was read yet\ntls: no serving certificate was read yet\n"
	if w.Code != http.StatusServiceUnavailable || w.Body.String() != want {
		t.Errorf("/readyz: %d %s, want 503 %s", w.Code, w.Body, want)
	}
}

func TestNewPolicyIsUsed(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	eventually(t, "the first policy", p.answers(review, `"allowed":true`))
	p.write(t, "policy.yaml", nextPolicy)
	refused := p.answers(review, `"allowed":false`, `"reason":"NotAllowed"`, `the audience \"vault\" (token \"vault\") is not allowed`)
	eventually(t, "the second policy", refused)

	p.write(t, "policy.yaml", badPolicy)
	eventually(t, "the bad one is counted", func() error { return p.hasMetric(`podtoken_policy_reloads_total{result="failure"} 1`) })
	if err := errors.Join(refused(), p.ready()); err != nil {
		t.Errorf("with a bad policy on disk: %v", err)
	}
	if err := p.hasMetric("podtoken_policy_last_reload_successful 0"); err != nil {
		t.Error(err)
	}
	p.write(t, "policy.yaml", goodPolicy)
	eventually(t, "the first policy again", p.answers(review, `"allowed":true`))
}

// The API server's audiences come from the webhook's own token, also when the API server gets others.
func TestNewTokenIsUsed(t *testing.T) {
	p, args := prepare(t)
	p.start(t, args)
	eventually(t, "ready", p.ready)
	eventually(t, "vault is an audience like any other", p.answers(review, `"allowed":true`))
	p.writeToken(t, "vault")
	refused := p.answers(review, `"allowed":false`, `\"vault\" (token \"vault\", the API server's own) is not allowed`)
	eventually(t, "vault is the API server's", refused)

	p.write(t, "token", "s3cr3t")
	eventually(t, "the bad one is counted", func() error { return p.hasMetric(`podtoken_identity_reloads_total{result="failure"} 1`) })
	if err := errors.Join(refused(), p.ready()); err != nil {
		t.Errorf("with a bad token on disk: %v", err)
	}
	p.writeToken(t, "https://kubernetes.default.svc")
	eventually(t, "vault is like any other again", p.answers(review, `"allowed":true`))
	if log := p.log.String(); strings.Contains(log, "s3cr3t") || !strings.Contains(log, `"apiServerAudiences":["vault"]`) {
		t.Errorf("the log has the token, or not its audiences: %s", log)
	}
}
