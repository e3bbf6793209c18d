package config

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

func TestRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	rules := NewRules(path, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	good := "apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar: {image: podtoken/sidecar:v1}\n"
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	if err := rules.Load(); err != nil {
		t.Fatal(err)
	}
	write(good + "unknown: 1\n")
	err := rules.Load()
	if err == nil || !strings.Contains(err.Error(), "unknown") || !strings.Contains(err.Error(), path) {
		t.Errorf("Load() = %v, want an error that names the field and %s", err, path)
	}
	if got, want := rules.Current().Sidecar.Image, "podtoken/sidecar:v1"; got != want {
		t.Errorf("image = %q, want %q", got, want)
	}
}

func TestPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	policy := NewPolicy(path, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	good := "apiVersion: podtoken.dev/v1alpha1\nkind: PolicyConfiguration\nrbacNamespaces: [prod]\n"
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	if err := policy.Load(); err != nil {
		t.Fatal(err)
	}
	write(good + "alow: []\n")
	want := fmt.Sprintf("reading %q: parsing policy: unknown field \"alow\"; correct the file (with the Helm chart: policy and tokens in its values)", path)
	if err := policy.Load(); err == nil || err.Error() != want {
		t.Errorf("Load() = %v, want %s", err, want)
	}
	if !policy.Current().RBAC("prod") {
		t.Error("the last good policy is not in use")
	}
}

func TestIdentity(t *testing.T) {
	token := func(audience string) string {
		segment := base64.RawURLEncoding.EncodeToString
		return segment([]byte(`{"kid":"k"}`)) + "." + segment([]byte(`{"aud":`+audience+`,"iat":1,"exp":2}`)) + ".c2lnbmF0dXJl"
	}
	path := filepath.Join(t.TempDir(), "token")
	const problem = "; the file must hold a ServiceAccount token of the default audience (a projected volume with a serviceAccountToken that sets no audience)"
	prefix := fmt.Sprintf("reading %q: ", path)
	tests := map[string]struct {
		content string
		want    []string
		err     string
	}{
		"several audiences, sorted":    {token(`["b","a","b"]`), []string{"a", "b"}, ""},
		"one audience":                 {token(`"https://kubernetes.default.svc"`), []string{"https://kubernetes.default.svc"}, ""},
		"a line break at the end":      {token(`["a"]`) + "\n", []string{"a"}, ""},
		"no audience":                  {token(`[]`), nil, prefix + "the token has no audience, or an empty one" + problem},
		"an empty audience":            {token(`["a",""]`), nil, prefix + "the token has no audience, or an empty one" + problem},
		"no token":                     {"s3cr3t", nil, prefix + "a token has 3 segments, this has 1" + problem},
		"a token that is no JSON":      {"s3cr3t.s3cr3t.s3cr3t", nil, prefix + "segment 1 of the token is not the JSON that was expected" + problem},
		"an audience that is a number": {token(`7`), nil, prefix + "segment 2 of the token is not the JSON that was expected" + problem},
		"no file":                      {"", nil, prefix + "open " + path + ": no such file or directory" + problem},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			identity := NewIdentity(path, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
			if got := identity.APIServerAudiences(); got != nil {
				t.Errorf("audiences before the first token: %q", got)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if test.content != "" {
				if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			text := ""
			if err := identity.Load(); err != nil {
				text = err.Error()
			}
			if text != test.err {
				t.Errorf("Load() = %s, want %s", text, test.err)
			}
			if diff := cmp.Diff(test.want, identity.APIServerAudiences()); diff != "" {
				t.Errorf("audiences (-want +got):\n%s", diff)
			}
			if output := log.String() + text; strings.Contains(output, "s3cr3t") || strings.Contains(output, "c2lnbmF0dXJl") {
				t.Errorf("a part of the token is in the output: %s", output)
			}
		})
	}
}

// The kubelet renews the token; an API server with new audiences shows in the next one.
func TestIdentityFollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	identity := NewIdentity(path, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	for _, audience := range []string{"old", "new"} {
		claims := jwt.Claims{Audiences: []string{audience}, IssuedAt: time.Unix(1, 0), Expires: time.Unix(2, 0)}
		if err := os.WriteFile(path, []byte(jwttest.Encode(claims)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := identity.Load(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{audience}, identity.APIServerAudiences()); diff != "" {
			t.Errorf("audiences (-want +got):\n%s", diff)
		}
	}
}
