package tokenrequest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/atomicfile"
	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	report "github.com/podtoken/podtoken/pkg/sidecar/status"
)

// fault is one way in which a request fails, and the class that the sidecar must make of it.
type fault struct {
	class sidecar.Class
	play  func()
}

// TestEveryFaultOnTheWire plays every row of what kube-apiserver, or what stands before it, can do to a request, to a
// sidecar that is whole: real client, real files, real clock. Each fault is played until it has hit; then the server
// answers again. All the time a reader checks every read.
func TestEveryFaultOnTheWire(t *testing.T) {
	server := fakeapi.Start(t)
	c, credentials := client(t, server)
	faults := wireFaults(t, server, credentials)
	dir := t.TempDir()
	files, err := atomicfile.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = files.Close() }()
	var log bytes.Buffer
	asks := make(chan os.Signal, 1)
	token := api.TokenSpec{Name: "vault", Audiences: []string{"vault"}, ExpirationSeconds: 600, Path: "vault", Mode: "0400", RefreshAtPercent: 80}
	s := sidecar.New(config.Config{Pod: c.config.Pod, Tokens: []api.TokenSpec{token}, Dir: dir},
		sidecar.Deps{Minter: c, Writer: files, Log: slog.New(slog.NewJSONHandler(&log, nil)), Version: "v0", Refresh: asks})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop := func() error {
		cancel()
		return <-ended
	}

	reads := 0
	read := func() {
		content, err := os.ReadFile(filepath.Join(dir, "vault"))
		if os.IsNotExist(err) && reads == 0 {
			return // the first answer is on its way
		}
		claims, parseErr := jwt.Parse(string(content))
		if err != nil || parseErr != nil || !claims.Expires.After(time.Now()) {
			_ = stop()
			t.Fatalf("%v, %v, expires at %s\n%s", err, parseErr, claims.Expires, &log)
		}
		reads++
	}
	// until reads all the time until something is so.
	until := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !so(); read() {
			if time.Now().After(deadline) {
				_ = stop()
				t.Fatalf("%s: not within 10 s\n%s", what, &log)
			}
		}
	}
	last := func() report.Token {
		current, err := report.Read(dir)
		if err != nil {
			return report.Token{}
		}
		return current.Tokens[0]
	}
	until("the first token", func() bool { return !last().ExpiresAt.IsZero() })
	for name, f := range faults {
		f.play()
		asks <- syscall.SIGHUP
		until(name, func() bool { return last().LastErrorClass == string(f.class) })
		server.Handle(nil)
		server.SetClaims(nil)
		server.Accept(func(string) bool { return true })
		server.WriteCredential(t, credentials, fakeapi.Credential(name))
		asks <- syscall.SIGHUP
		until(name+" is over", func() bool { return last().LastErrorClass == "" })
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%d faults, %d reads, %d requests", len(faults), reads, server.Requests())
	if strings.Contains(log.String(), "eyJ") {
		t.Errorf("a token was logged: %s", &log)
	}
}

func wireFaults(t *testing.T, server *fakeapi.Server, credentials string) map[string]fault {
	wrong := func(change func(*jwt.Claims)) fault {
		return fault{sidecar.ClassAnswer, func() { server.SetClaims(change) }}
	}
	answer := func(class sidecar.Class, handler http.HandlerFunc) fault {
		return fault{class, func() { server.Handle(handler) }}
	}
	refuse := func(class sidecar.Class, code int, reason string) fault {
		return answer(class, fakeapi.Refuse(code, reason, reason))
	}
	created := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprint(w, text)
		}
	}
	return map[string]fault{
		"400: the pod has another ServiceAccount": refuse(sidecar.ClassConfiguration, 400, "BadRequest"),
		"401: the credential expired":             {sidecar.ClassUnauthorized, func() { server.Accept(func(string) bool { return false }) }},
		"403: RBAC or a policy":                   refuse(sidecar.ClassForbidden, 403, "Forbidden"),
		"404: the pod is gone":                    refuse(sidecar.ClassNotFound, 404, "NotFound"),
		"409: another uid":                        refuse(sidecar.ClassConfiguration, 409, "Conflict"),
		"413: too large":                          refuse(sidecar.ClassConfiguration, 413, "RequestEntityTooLarge"),
		"422: validation":                         refuse(sidecar.ClassConfiguration, 422, "Invalid"),
		"429: priority and fairness":              refuse(sidecar.ClassThrottled, 429, "TooManyRequests"),
		"500: the signer":                         refuse(sidecar.ClassServer, 500, "InternalError"),
		"502: a load balancer":                    refuse(sidecar.ClassServer, 502, ""),
		"503: it starts":                          refuse(sidecar.ClassServer, 503, "ServiceUnavailable"),
		"504: too slow":                           refuse(sidecar.ClassServer, 504, "Timeout"),
		"a slow answer": answer(sidecar.ClassServer, func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
			fakeapi.Refuse(500, "InternalError", "slow")(w, r)
		}),
		"no answer": answer(sidecar.ClassNetwork, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		"half an answer": answer(sidecar.ClassNetwork, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprint(w, "{")
		}),
		"half a token": answer(sidecar.ClassAnswer, func(w http.ResponseWriter, r *http.Request) {
			text, _ := json.Marshal(map[string]any{"status": map[string]any{"token": server.Issued()[0][:200], "expirationTimestamp": time.Now().Add(time.Hour)}})
			created(string(text))(w, r)
		}),
		"no JSON":          answer(sidecar.ClassAnswer, created("<html>")),
		"nothing":          answer(sidecar.ClassAnswer, created("")),
		"a redirect":       answer(sidecar.ClassAnswer, http.RedirectHandler("https://example.invalid/", http.StatusTemporaryRedirect).ServeHTTP),
		"another pod":      wrong(func(c *jwt.Claims) { c.PodUID = "other" }),
		"another audience": wrong(func(c *jwt.Claims) { c.Audiences = []string{"other"} }),
		"no life":          wrong(func(c *jwt.Claims) { c.Expires = c.IssuedAt }),
		"a year of life": {sidecar.ClassConfiguration, func() {
			server.SetClaims(func(c *jwt.Claims) { c.WarnAfter, c.Expires = c.Expires, c.IssuedAt.AddDate(1, 0, 0) })
		}},
		"no CA": {sidecar.ClassCredential, func() {
			own := server.CA
			server.CA = []byte("x")
			server.WriteCredential(t, credentials, fakeapi.Credential("first"))
			server.CA = own
		}},
	}
}
