package attack

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// server answers token requests as the API server does: it asks for the right before it reads the body, and for the mark afterwards.
type server struct {
	right atomic.Bool
	// asksAgain is a guard that does not let go.
	asksAgain bool
	requests  atomic.Int64
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	authorized := s.right.Load()
	body, err := io.ReadAll(r.Body)
	var request struct{ Spec Spec }
	w.Header().Set("Content-Type", "application/json")
	deny := func(message string) {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]string{"status": "Failure", "message": message})
	}
	switch spec := &request.Spec; {
	case err != nil || json.Unmarshal(body, &request) != nil:
		w.WriteHeader(http.StatusBadRequest)
	case !authorized:
		deny(`cannot create resource "serviceaccounts/token"`)
	case !s.right.Load() && s.asksAgain, s.right.Load() && (spec.Reference == nil || spec.Lifetime != 600 || spec.Audiences[0] != "vault"):
		deny(`ValidatingAdmissionPolicy 'podtoken-guard' denied request`)
	default:
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"status": map[string]string{"token": sign(*spec)}})
	}
}

func sign(spec Spec) string {
	pod := map[string]string{}
	if spec.Reference != nil {
		pod = map[string]string{"name": spec.Reference.Name, "uid": spec.Reference.UID}
	}
	payload, _ := json.Marshal(map[string]any{"sub": "system:serviceaccount:ns:app", "aud": spec.Audiences, "iat": 1000, "exp": 1000 + spec.Lifetime,
		"kubernetes.io": map[string]any{"pod": pod}})
	return "eyJoZWFkZXI." + base64.RawURLEncoding.EncodeToString(payload) + ".c2lnbmF0dXJl"
}

func (s *server) start(t *testing.T) *Caller {
	t.Helper()
	s.right.Store(true)
	listening := httptest.NewTLSServer(s)
	t.Cleanup(listening.Close)
	roots := x509.NewCertPool()
	roots.AddCert(listening.Certificate())
	return NewCaller(listening.Listener.Addr().String(), roots, "credential")
}

var testGrant = Grant{Namespace: "ns", Account: "app", Pod: "pod", PodUID: "uid", Audiences: []string{"vault"}, Lifetimes: []int64{600}, Own: []string{"api"}}

func testRace() Race {
	return Race{
		Namespace: "ns", Account: "app", Grant: testGrant, Requests: testGrant.RaceRequests(),
		Whole: 2, Half: 20, Pause: time.Millisecond, HeldMin: 10 * time.Millisecond, HeldMax: 60 * time.Millisecond, Time: 10 * time.Second, Count: 1 << 20,
	}
}

// The race finds a guard that lets go, by half requests at every withdrawal, and none of one that does not.
func TestRaceFindsTheGuardThatLetsGo(t *testing.T) {
	for name, asksAgain := range map[string]bool{"lets go": false, "never lets go": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{asksAgain: asksAgain}
			caller := s.start(t)
			ctx, stop := context.WithCancel(t.Context())
			result, err := testRace().Run(ctx, caller, func() {
				go func() {
					for range 5 {
						time.Sleep(100 * time.Millisecond)
						s.right.Store(false)
						time.Sleep(100 * time.Millisecond)
						s.right.Store(true)
					}
					stop()
				}()
			})
			if err != nil {
				t.Fatal(err)
			}
			all := result.All()
			if got := int64(all.Sum()); got != s.requests.Load() {
				t.Errorf("%d answers were counted, %d requests were made", got, s.requests.Load())
			}
			for _, outcome := range []string{ByGuard, ByRBAC, Allowed} {
				if result.Half.Sum(outcome) == 0 || result.Whole.Sum(outcome) == 0 {
					t.Errorf("no %q: %v", outcome, result)
				}
			}
			found := all.Sum(Violations...)
			if found != 0 == asksAgain || (len(result.Loot) == 0) != asksAgain {
				t.Errorf("%d tokens that must not be: %v", found, result)
			}
			if !asksAgain && (all["undeclared audience"][Undeclared] == 0 || all["declared audience for ever"][Undue] == 0 || all["unbound, for the API server and AWS, for ever"][Unbound] == 0) {
				t.Errorf("not each kind of loot was found: %v", all)
			}
			if text := fmt.Sprintf("%v %s", result, mustText(t, result)); strings.Contains(text, "eyJ") || strings.Contains(text, "c2ln") {
				t.Errorf("the result shows a token: %s", text)
			}
		})
	}
}

func mustText(t *testing.T, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Both limits end a race that the caller does not end.
func TestRaceIsBounded(t *testing.T) {
	t.Parallel()
	s := &server{}
	caller := s.start(t)
	race := testRace()
	race.Count = 100
	result, err := race.Run(t.Context(), caller, func() {})
	if err != nil || result.All().Sum() != 100 || s.requests.Load() != 100 {
		t.Errorf("%d requests of 100: %v", s.requests.Load(), err)
	}
	race.Count, race.Time = 1<<20, 200*time.Millisecond
	start := time.Now()
	if _, err := race.Run(t.Context(), caller, func() {}); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("a race of 200 ms took %s: %v", time.Since(start), err)
	}
}

func TestOutcome(t *testing.T) {
	mine := Token{Subject: "system:serviceaccount:ns:app", Audiences: []string{"vault"}, Lifetime: 600, Pod: "pod", PodUID: "uid"}
	change := func(change func(*Token)) Answer {
		token := mine
		change(&token)
		return Answer{Code: 201, Token: &token}
	}
	for want, answer := range map[string]Answer{
		Allowed:      change(func(*Token) {}),
		Unbound:      change(func(t *Token) { t.Pod, t.PodUID = "", "" }),
		OtherPod:     change(func(t *Token) { t.PodUID = "another" }),
		OtherAccount: change(func(t *Token) { t.Subject = "system:serviceaccount:ns:other" }),
		Undeclared:   change(func(t *Token) { t.Audiences = []string{"vault", "api"} }),
		Undue:        change(func(t *Token) { t.Lifetime = 601 }),
		ByGuard:      {Code: 403, Message: "ValidatingAdmissionPolicy 'podtoken-guard' with binding ..."},
		ByRBAC:       {Code: 403, Message: `User "x" cannot create resource "serviceaccounts/token"`},
		ByOthers:     {Code: 403, Message: "another policy"},
		"429":        {Code: 429},
	} {
		if got := testGrant.Outcome(answer); got != want {
			t.Errorf("%+v: got %q, want %q", answer, got, want)
		}
	}
	for name, answer := range map[string]Answer{
		"a renewal":              change(func(t *Token) { t.Audiences, t.Lifetime = []string{"api"}, 3600 }),
		"the guard on the disks": {Code: 403, Message: "ValidatingAdmissionPolicy 'guard.podtoken.dev.static.k8s.io' denied"},
	} {
		if got := testGrant.Outcome(answer); got != Allowed && got != ByGuard {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := testGrant.Outcome(change(func(t *Token) { t.Audiences, t.Lifetime = []string{"api"}, 3601 })); got != Undeclared {
		t.Errorf("a renewal for too long: %q", got)
	}
	if got := (Grant{}).Outcome(change(func(*Token) {})); got != OtherPod {
		t.Errorf("without any grant: %q", got)
	}
	answer, _ := readAnswer(201, []byte(`{"status":{"token":"no token at all"}}`))
	if got := testGrant.Outcome(answer); got != Unbound {
		t.Errorf("a token that cannot be read: %q", got)
	}
}
