package tokenrequest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/internal/servertest"
	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

var vault = api.TokenSpec{Name: "vault", Audiences: []string{"vault", "https://kubernetes.default.svc"}, ExpirationSeconds: 3600}

// client makes a client of the server, and the directory of its credential.
func client(t testing.TB, server *fakeapi.Server) (*Client, string) {
	t.Helper()
	dir := server.CredentialDir(t)
	c, err := New(Config{
		Host: server.Host, Port: server.Port, CredentialDir: dir, UserAgent: "podtoken-sidecar/test",
		Pod: config.Pod{Namespace: fakeapi.Namespace, Name: fakeapi.PodName, UID: fakeapi.PodUID, ServiceAccount: fakeapi.ServiceAccount},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Idle)
	return c, dir
}

// failure is the *sidecar.Error of a request that must fail.
func failure(t *testing.T, c *Client) sidecar.Error {
	t.Helper()
	token, err := c.Mint(t.Context(), vault)
	if err == nil {
		t.Fatalf("no error, token of %v", token.Claims)
	}
	e, ok := errors.AsType[*sidecar.Error](err)
	if !ok || token.Secret != "" {
		t.Fatalf("%T: %v, token %v", err, err, token)
	}
	return *e
}

func TestMint(t *testing.T) {
	server := fakeapi.Start(t)
	server.SetLifetime(20 * time.Minute)
	c, _ := client(t, server)
	token, err := c.Mint(t.Context(), vault)
	if err != nil {
		t.Fatal(err)
	}
	if issued := server.Issued(); len(issued) != 1 || string(token.Secret) != issued[0] {
		t.Error("not the token that was issued")
	}
	if !token.Claims.HasAudiences(vault.Audiences) || token.Claims.KeyID != "key-1" || token.Claims.ServiceAccountUID != fakeapi.ServiceAccountUID {
		t.Errorf("%+v", token.Claims)
	}
	if life := token.Expires.Sub(token.Claims.IssuedAt); life != 20*time.Minute {
		t.Errorf("the answer's lifetime is %s", life)
	}
	want := []string{`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["vault","https://kubernetes.default.svc"],` +
		`"expirationSeconds":3600,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"cart-6d5f","uid":"9a0b7c1d-0000-4000-8000-00000000000b"}}}`}
	if diff := cmp.Diff(want, server.Bodies()); diff != "" {
		t.Error(diff)
	}
}

func TestMintOverIPv6(t *testing.T) {
	server := fakeapi.StartAt(t, "::1")
	c, _ := client(t, server)
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Error(err)
	}
}

func TestNoAudienceIsNeverAskedFor(t *testing.T) {
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	_, err := c.Mint(t.Context(), api.TokenSpec{Name: "vault", ExpirationSeconds: 600})
	e, ok := errors.AsType[*sidecar.Error](err)
	if !ok || e.Class != sidecar.ClassConfiguration || server.Requests() != 0 {
		t.Errorf("%v, %d requests", err, server.Requests())
	}
}

// TestRefusals has a row for each way in which kube-apiserver, or what stands before it, says no.
func TestRefusals(t *testing.T) {
	with := func(header, value string, handler http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(header, value)
			handler(w, r)
		}
	}
	plain := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	const foreign = "the answer is not of the API server's form"
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    sidecar.Error
	}{
		"400: the pod has another ServiceAccount": {
			fakeapi.Refuse(400, "BadRequest", "cannot bind token for serviceaccount"),
			sidecar.Error{Class: "Configuration", Status: 400, Reason: "BadRequest", Message: "cannot bind token for serviceaccount"}},
		"403: no permission": {
			fakeapi.Refuse(403, "Forbidden", "serviceaccounts \"cart\" is forbidden"),
			sidecar.Error{Class: "Forbidden", Status: 403, Reason: "Forbidden", Message: "serviceaccounts \"cart\" is forbidden"}},
		"403: the namespace is being deleted": {
			plain(403, `{"kind":"Status","reason":"Forbidden","message":"serviceaccounts \"cart\" is forbidden: unable to create new content in namespace shop because it is being terminated",`+
				`"details":{"name":"cart","kind":"serviceaccounts","causes":[{"reason":"NamespaceTerminating","message":"namespace shop is being terminated","field":"metadata.namespace"}]}}`),
			sidecar.Error{Class: "Forbidden", Status: 403, Reason: "Forbidden", Message: "the namespace is being deleted, and the API server creates no tokens in it any more; " +
				"the current token stays until it expires: if the pod needs it for longer, set a longer podtoken.dev/expiration or a shorter terminationGracePeriodSeconds: " +
				"serviceaccounts \"cart\" is forbidden: unable to create new content in namespace shop because it is being terminated"}},
		"403: another cause": {
			plain(403, `{"kind":"Status","reason":"Forbidden","message":"no","details":{"causes":[{"reason":"FieldValueInvalid","message":"NamespaceTerminating"}]}}`),
			sidecar.Error{Class: "Forbidden", Status: 403, Reason: "Forbidden", Message: "no"}},
		"404: the pod is gone": {
			fakeapi.Refuse(404, "NotFound", "pods \"cart-6d5f\" not found"),
			sidecar.Error{Class: "NotFound", Status: 404, Reason: "NotFound", Message: "pods \"cart-6d5f\" not found"}},
		"409: another uid": {
			fakeapi.Refuse(409, "Conflict", "the UID does not match"),
			sidecar.Error{Class: "Configuration", Status: 409, Reason: "Conflict", Message: "the UID does not match"}},
		"413: too large": {
			fakeapi.Refuse(413, "RequestEntityTooLarge", "limit is 3145728"),
			sidecar.Error{Class: "Configuration", Status: 413, Reason: "RequestEntityTooLarge", Message: "limit is 3145728"}},
		"422: validation or a policy": {
			fakeapi.Refuse(422, "Invalid", "spec.expirationSeconds: Invalid value"),
			sidecar.Error{Class: "Configuration", Status: 422, Reason: "Invalid", Message: "spec.expirationSeconds: Invalid value"}},
		"429: priority and fairness": {
			with("Retry-After", "3", fakeapi.Refuse(429, "TooManyRequests", "slow down")),
			sidecar.Error{Class: "Throttled", Status: 429, Reason: "TooManyRequests", Message: "slow down", RetryAfter: 3 * time.Second}},
		"429 without Retry-After": {
			fakeapi.Refuse(429, "TooManyRequests", "slow down"),
			sidecar.Error{Class: "Throttled", Status: 429, Reason: "TooManyRequests", Message: "slow down"}},
		"429 with the seconds in the details": {
			plain(429, `{"kind":"Status","reason":"TooManyRequests","message":"slow down","details":{"retryAfterSeconds":5}}`),
			sidecar.Error{Class: "Throttled", Status: 429, Reason: "TooManyRequests", Message: "slow down", RetryAfter: 5 * time.Second}},
		"429 with nonsense to wait for": {
			with("Retry-After", "-1", plain(429, `{"kind":"Status","message":"x","details":{"retryAfterSeconds":-5}}`)),
			sidecar.Error{Class: "Throttled", Status: 429, Message: "x"}},
		"429 with a wait of years": {
			with("Retry-After", "999999999", fakeapi.Refuse(429, "TooManyRequests", "x")),
			sidecar.Error{Class: "Throttled", Status: 429, Reason: "TooManyRequests", Message: "x", RetryAfter: 24 * time.Hour}},
		"500: the signer, or a webhook that must not fail": {
			fakeapi.Refuse(500, "InternalError", "failed to generate token"),
			sidecar.Error{Class: "Server", Status: 500, Reason: "InternalError", Message: "failed to generate token"}},
		"502 of a load balancer": {
			plain(502, "<html>Bad Gateway</html>"),
			sidecar.Error{Class: "Server", Status: 502, Message: foreign}},
		"503 while it starts": {
			plain(503, "not ready"),
			sidecar.Error{Class: "Server", Status: 503, Message: foreign}},
		"503 with Retry-After": {
			with("Retry-After", "2", fakeapi.Refuse(503, "ServiceUnavailable", "later")),
			sidecar.Error{Class: "Throttled", Status: 503, Reason: "ServiceUnavailable", Message: "later", RetryAfter: 2 * time.Second}},
		"504: the request took too long": {
			fakeapi.Refuse(504, "Timeout", "timeout"),
			sidecar.Error{Class: "Server", Status: 504, Reason: "Timeout", Message: "timeout"}},
		"a redirect is not followed": {
			with("Location", "https://127.0.0.1:1/", plain(307, "")),
			sidecar.Error{Class: "Answer", Status: 307, Message: foreign}},
		"a success that is no answer": {
			plain(201, "<html>"),
			sidecar.Error{Class: "Answer", Status: 201, Message: "the answer is not a TokenRequest"}},
		"a success without a token": {
			plain(201, "{}"),
			sidecar.Error{Class: "Answer", Status: 201, Message: "a token has 3 segments, this has 1"}},
		"an answer without end": {
			plain(201, strings.Repeat(" ", 300<<10)+"{}"),
			sidecar.Error{Class: "Answer", Status: 201, Message: "the answer is longer than 262144 bytes"}},
		"no answer at all": {
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			sidecar.Error{Class: "Network", Message: "stream error: stream ID 1; INTERNAL_ERROR; received from peer"}},
		"half an answer": {
			with("Content-Length", "100", plain(201, "{")),
			sidecar.Error{Class: "Network", Message: "unexpected EOF"}},
		"a message over several lines": {
			fakeapi.Refuse(403, "Forbidden", "a\nb\x1b[31mc"),
			sidecar.Error{Class: "Forbidden", Status: 403, Reason: "Forbidden", Message: "a b [31mc"}},
		"a message without end": {
			fakeapi.Refuse(403, "Forbidden", strings.Repeat("é", 1000)),
			sidecar.Error{Class: "Forbidden", Status: 403, Reason: "Forbidden", Message: strings.Repeat("é", 300) + "..."}},
		"a message with a token": {
			fakeapi.Refuse(403, "Forbidden", `object {"token":"`+fakeapi.Credential("other")+`"} denied, also eyJhbGciOi`),
			sidecar.Error{Class: "Forbidden", Status: 403, Reason: "Forbidden", Message: `object {"token":"[redacted]"} denied, also [redacted]`}},
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeapi.Start(t)
			client, _ := client(t, server)
			server.Handle(c.handler)
			if diff := cmp.Diff(c.want, failure(t, client)); diff != "" {
				t.Error(diff)
			}
			if n := server.Requests(); n != 1 {
				t.Errorf("%d requests", n)
			}
			server.Handle(nil)
			if _, err := client.Mint(t.Context(), vault); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestAnswersThatAreNotWhatWasAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*jwt.Claims)
		want   string // empty: accepted
	}{
		"the same audiences in another order":  {func(c *jwt.Claims) { c.Audiences = []string{"https://kubernetes.default.svc", "vault"} }, ""},
		"an audience is missing":               {func(c *jwt.Claims) { c.Audiences = []string{"vault"} }, "the token lacks an audience that was asked for"},
		"another pod":                          {func(c *jwt.Claims) { c.PodUID = "u" }, "the token is not bound to this pod"},
		"no pod":                               {func(c *jwt.Claims) { c.PodName = "" }, "the token is not bound to this pod"},
		"another namespace":                    {func(c *jwt.Claims) { c.Namespace = "store" }, "the token is not bound to this pod"},
		"another ServiceAccount":               {func(c *jwt.Claims) { c.ServiceAccountName = "admin" }, "the token is of another ServiceAccount"},
		"a token that ends when it begins":     {func(c *jwt.Claims) { c.Expires = c.IssuedAt }, "the token ends when it begins"},
		"a clock that is years from ours":      {func(c *jwt.Claims) { c.IssuedAt = c.IssuedAt.AddDate(-5, 0, 0) }, ""},
		"a status that ends before the claims": {func(c *jwt.Claims) { c.IssuedAt = c.IssuedAt.AddDate(5, 0, 0); c.Expires = c.Expires.AddDate(6, 0, 0) }, "the token ends when it begins"},
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeapi.Start(t)
			client, _ := client(t, server)
			server.SetClaims(c.change)
			if c.want == "" {
				if _, err := client.Mint(t.Context(), vault); err != nil {
					t.Error(err)
				}
				return
			}
			if diff := cmp.Diff(sidecar.Error{Class: "Answer", Status: 201, Message: c.want}, failure(t, client)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// With --service-account-max-token-expiration=1h0m7s kube-apiserver shortens what was requested to 3607 s, after admission, and
// makes of that a token of one year, if all its audiences are its own. Such a token is never handed out, and the message says what to do.
func TestATokenThatOutlivesItsGrantIsNotUsed(t *testing.T) {
	year := func(c *jwt.Claims) { c.Expires = c.IssuedAt.Add(365 * 24 * time.Hour) }
	for name, change := range map[string]func(*jwt.Claims){
		"kube-apiserver":    func(c *jwt.Claims) { c.WarnAfter = c.Expires; year(c) },
		"without warnafter": year,
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeapi.Start(t)
			client, _ := client(t, server)
			server.SetLifetime(3607 * time.Second)
			server.SetClaims(change)
			spec := api.TokenSpec{Name: "api", Audiences: []string{"https://kubernetes.default.svc"}, ExpirationSeconds: 7200}
			token, err := client.Mint(t.Context(), spec)
			want := &sidecar.Error{Class: "Configuration", Status: 201, Message: "token not used: the API server granted 1h0m7s of the 2h0m0s requested, and then " +
				"made it valid for 8760h0m0s: if its flag --service-account-max-token-expiration is 1h0m7s, change that by a second, or set podtoken.dev/expiration.api to at most 1h"}
			if diff := cmp.Diff(want, err); diff != "" || token.Secret != "" {
				t.Errorf("token of %v\n%s", token.Claims, diff)
			}
			server.SetClaims(nil)
			if _, err := client.Mint(t.Context(), spec); err != nil {
				t.Errorf("3607 s that stay 3607 s: %v", err)
			}
		})
	}
}

func TestA401IsRetriedOnceAndOnlyWithAnotherCredential(t *testing.T) {
	refused := sidecar.Error{Class: "Unauthorized", Status: 401, Reason: "Unauthorized", Message: "Unauthorized"}
	t.Run("the file did not change", func(t *testing.T) {
		server := fakeapi.Start(t)
		c, _ := client(t, server)
		server.SetCredential("another")
		if diff := cmp.Diff(refused, failure(t, c)); diff != "" || server.Requests() != 1 {
			t.Error(diff, server.Requests())
		}
	})
	// rotating is a server that refuses once and has the kubelet replace the file before the next request.
	rotating := func(t *testing.T, accepted string) (*Client, *fakeapi.Server) {
		server := fakeapi.Start(t)
		c, dir := client(t, server)
		var once sync.Once
		server.Handle(func(w http.ResponseWriter, r *http.Request) {
			once.Do(func() {
				server.WriteCredential(t, dir, fakeapi.Credential("second"))
				server.SetCredential(accepted)
				server.Handle(nil)
			})
			fakeapi.Refuse(401, "Unauthorized", "Unauthorized")(w, r)
		})
		return c, server
	}
	t.Run("the file changed", func(t *testing.T) {
		server := fakeapi.Start(t)
		c, dir := client(t, server)
		second := fakeapi.Credential("second")
		server.Handle(func(w http.ResponseWriter, r *http.Request) {
			server.WriteCredential(t, dir, second)
			server.SetCredential(second)
			server.Handle(nil)
			fakeapi.Refuse(401, "Unauthorized", "Unauthorized")(w, r)
		})
		if _, err := c.Mint(t.Context(), vault); err != nil || server.Requests() != 2 {
			t.Error(err, server.Requests())
		}
	})
	t.Run("the file changed to one that is refused too", func(t *testing.T) {
		c, server := rotating(t, "a third")
		if diff := cmp.Diff(refused, failure(t, c)); diff != "" || server.Requests() != 2 {
			t.Error(diff, server.Requests())
		}
	})
}

func TestCredentialAndAuthorityAreReadForEveryRequest(t *testing.T) {
	server := fakeapi.Start(t)
	c, dir := client(t, server)
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	second := fakeapi.Credential("second")
	server.SetCredential(second)
	server.WriteCredential(t, dir, second+"\n")
	if _, err := c.Mint(t.Context(), vault); err != nil || server.Requests() != 2 {
		t.Error(err, server.Requests())
	}
	// A new authority is trusted instead of the old one, not with it.
	other := fakeapi.Start(t)
	own := server.CA
	server.CA = other.CA
	server.WriteCredential(t, dir, second)
	c.Idle()
	if e := failure(t, c); e.Class != "Network" || !strings.Contains(e.Message, "certificate signed by unknown authority") {
		t.Error(e)
	}
	server.CA = own
	server.WriteCredential(t, dir, second)
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Error(err)
	}
}

func TestClusterIsThatWhichIsAsked(t *testing.T) {
	server := fakeapi.Start(t)
	c, dir := client(t, server)
	want := tokenfile.Cluster{Server: "https://" + net.JoinHostPort(server.Host, server.Port), CA: string(server.CA)}
	if got, err := c.Cluster(); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	remove("ca.crt")(t, dir)
	_, err := c.Cluster()
	if e, ok := errors.AsType[*sidecar.Error](err); !ok || e.Class != sidecar.ClassCredential || !strings.Contains(e.Message, "reading the cluster's CA") {
		t.Errorf("got %v", err)
	}
}

func TestCredentialsThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"no token":               {remove("token"), "reading the API credential: open"},
		"an empty token":         {replace("token", " \n"), "reading the API credential: the token file is empty"},
		"no authority":           {remove("ca.crt"), "reading the cluster's CA: open"},
		"an authority of no use": {replace("ca.crt", "x"), "reading the cluster's CA: no certificate in the file"},
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeapi.Start(t)
			client, dir := client(t, server)
			c.spoil(t, dir)
			if e := failure(t, client); e.Class != "Credential" || !strings.HasPrefix(e.Message, c.want) || server.Requests() != 0 {
				t.Error(e, server.Requests())
			}
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func replace(name, content string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		remove(name)(t, dir)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACredentialThatIsNoHeaderIsNotSaid(t *testing.T) {
	server := fakeapi.Start(t)
	c, dir := client(t, server)
	server.WriteCredential(t, dir, "sec\nret")
	if e := failure(t, c); e.Class != "Credential" || strings.Contains(e.Message, "ret\"") || !strings.Contains(e.Message, "blanks or control characters") || server.Requests() != 0 {
		t.Error(e)
	}
}

func TestNobodyListens(t *testing.T) {
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	c.endpoint = "https://" + servertest.FreeAddress(t) + "/"
	if e := failure(t, c); e.Class != "Network" || !strings.Contains(e.Message, "connection refused") {
		t.Error(e)
	}
}

func TestAServerThatNeverAnswersIsLeft(t *testing.T) {
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	server.Handle(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(50*time.Millisecond))
	defer cancel()
	_, err := c.Mint(ctx, vault)
	if diff := cmp.Diff(error(&sidecar.Error{Class: "Network", Message: "no answer of the API server within 35s"}), err); diff != "" {
		t.Error(diff)
	}
}

// A foreign validating webhook that does not answer takes ten seconds of the request before it is ignored.
func TestAnAnswerThatTakesElevenSecondsIsTaken(t *testing.T) {
	t.Parallel()
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	asked := time.Now()
	server.Handle(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(11 * time.Second)
		server.Grant(w, r)
	})
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Errorf("after %s: %v", time.Since(asked), err)
	}
}

func TestTheProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Error(err)
	}
	// net/http never asks for a proxy to loopback, so the field itself is looked at as well.
	if c.transport.TLSHandshakeTimeout == 0 {
		t.Error("a connection whose handshake hangs would never be closed")
	}
	if c.transport.Proxy != nil {
		t.Error("the transport has a proxy")
	}
}

func TestNewNeedsAnAddress(t *testing.T) {
	if _, err := New(Config{Host: "10.0.0.1"}); err == nil || !strings.Contains(err.Error(), "KUBERNETES_SERVICE_PORT") {
		t.Error(err)
	}
}
