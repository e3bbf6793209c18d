package tokenrequest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

// server is the API server of these tests: it answers after a second, by a clock that is far from ours.
type server struct {
	corev1client.ServiceAccountInterface

	mu       sync.Mutex
	requests []authenticationv1.TokenRequest
	busy     int
	err      error
	granted  time.Duration
	answer   string
}

// skew is how far the API server's clock is from ours.
const skew = -3 * time.Hour

func (s *server) ServiceAccounts(string) corev1client.ServiceAccountInterface { return s }

func (s *server) CreateToken(ctx context.Context, name string, request *authenticationv1.TokenRequest, _ metav1.CreateOptions) (*authenticationv1.TokenRequest, error) {
	s.mu.Lock()
	s.requests = append(s.requests, *request)
	s.busy++
	if s.busy > 1 {
		panic("two requests at once")
	}
	s.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if err := errors.Join(ctx.Err(), s.err); err != nil {
		return nil, s.err
	}
	lifetime := time.Duration(*request.Spec.ExpirationSeconds) * time.Second
	if s.granted != 0 {
		lifetime = s.granted
	}
	now := time.Now().Add(skew)
	answer := request.DeepCopy()
	answer.Status.Token = s.answer
	if s.answer == "" {
		answer.Status.Token = jwttest.Encode(jwt.Claims{
			ID: "id", Audiences: request.Spec.Audiences, IssuedAt: now, Expires: now.Add(lifetime), Namespace: request.Namespace, ServiceAccountName: name,
		})
	}
	answer.Status.ExpirationTimestamp = metav1.NewTime(now.Add(lifetime))
	return answer, nil
}

func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func newSource(t *testing.T, s *server) *Source {
	t.Helper()
	source, err := New(s, Config{Namespace: "payments", ServiceAccount: "reconciler", Audiences: []string{"vault", "https://billing.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func mustToken(t *testing.T, source *Source) string {
	t.Helper()
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	if !token.Expiry.After(time.Now()) || token.Type() != "Bearer" {
		t.Fatalf("the token is of type %q and ends at %s; it is %s", token.Type(), token.Expiry, time.Now())
	}
	return token.AccessToken
}

func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		config := Config{
			Namespace: "payments", ServiceAccount: "reconciler", Audiences: []string{"vault", "billing"}, Expiration: 20 * time.Minute,
			Pod: &Pod{Name: "reconciler-0", UID: "1-2-3"},
		}
		source, err := New(s, config)
		if err != nil {
			t.Fatal(err)
		}
		// What the caller does with its own afterwards does not count.
		config.Audiences[0], config.Pod.UID = "other", "other"
		mustToken(t, source)
		mustToken(t, newSource(t, s))
		short, hour := int64(1200), int64(3600)
		meta := metav1.ObjectMeta{Namespace: "payments", Name: "reconciler"}
		want := []authenticationv1.TokenRequest{
			{ObjectMeta: meta, Spec: authenticationv1.TokenRequestSpec{
				Audiences: []string{"vault", "billing"}, ExpirationSeconds: &short,
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "reconciler-0", UID: "1-2-3"},
			}},
			{ObjectMeta: meta, Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "https://billing.example.com"}, ExpirationSeconds: &hour}},
		}
		if diff := cmp.Diff(want, s.requests); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Ten thousand callers of a new source cost one request, and one at the time of the refresh, for which no caller waits.
func TestOneRequestAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		source := newSource(t, s)
		ask := func() (slowest time.Duration) {
			var callers sync.WaitGroup
			var mu sync.Mutex
			for range 10_000 {
				callers.Go(func() {
					start := time.Now()
					mustToken(t, source)
					mu.Lock()
					defer mu.Unlock()
					slowest = max(slowest, time.Since(start))
				})
			}
			callers.Wait()
			return slowest
		}
		if took := ask(); took != time.Second || s.asked() != 1 {
			t.Errorf("%d requests, %s", s.asked(), took)
		}
		first := mustToken(t, source)
		time.Sleep(48*time.Minute + time.Second)
		if took := ask(); took != 0 || s.asked() != 2 {
			t.Errorf("at the refresh: %d requests, %s", s.asked(), took)
		}
		time.Sleep(2 * time.Second)
		if mustToken(t, source) == first {
			t.Error("the token was not replaced")
		}
	})
}

// The refresh comes after 72 to 80 % of the lifetime that was granted, whatever was asked for, and not always at the same time.
func TestRefreshAheadOfExpiryWithJitter(t *testing.T) {
	for name, test := range map[string]struct{ granted, from, to time.Duration }{
		"as asked":      {0, 43*time.Minute + 12*time.Second, 48 * time.Minute},
		"shortened":     {10 * time.Minute, 7*time.Minute + 12*time.Second, 8 * time.Minute},
		"very long":     {30 * 24 * time.Hour, 21*time.Hour + 36*time.Minute, 24 * time.Hour},
		"a few seconds": {10 * time.Second, 7 * time.Second, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen := map[time.Duration]bool{}
				for range 50 {
					s := &server{granted: test.granted}
					source := newSource(t, s)
					start := time.Now()
					mustToken(t, source)
					step := (test.to - test.from) / 100
					for s.asked() == 1 {
						time.Sleep(step)
						_, _ = source.Token()
						synctest.Wait()
					}
					after := time.Since(start)
					seen[after] = true
					if after < test.from || after > test.to+time.Second+2*step {
						t.Errorf("refreshed after %s, want %s to %s", after, test.from, test.to)
					}
					time.Sleep(2 * time.Second)
				}
				if len(seen) < 10 {
					t.Errorf("50 sources refreshed at %d different times only", len(seen))
				}
			})
		})
	}
}

// While the API server is away the old token is used until its end, and not a second longer; the requests get rarer; afterwards
// all is well again.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		source := newSource(t, s)
		first := mustToken(t, source)
		issued := time.Now().Add(-time.Second)
		s.set(func(s *server) { s.err = apierrors.NewInternalError(errors.New("no")) })
		for time.Since(issued) < time.Hour {
			if mustToken(t, source) != first {
				t.Fatal("another token, from nowhere")
			}
			time.Sleep(time.Second)
		}
		// 12 to 17 minutes, each pause 30 s to a minute at last.
		if n := s.asked() - 1; n < 12 || n > 45 {
			t.Errorf("%d requests during the outage", n)
		}
		token, err := source.Token()
		if token != nil || err == nil || !strings.Contains(err.Error(), "payments/reconciler") || strings.Contains(err.Error(), "eyJ") || !apierrors.IsInternalError(err) {
			t.Errorf("after its end: %v, %v", token != nil, err)
		}
		s.set(func(s *server) { s.err = nil })
		time.Sleep(maxBackoff)
		if mustToken(t, source) == first {
			t.Error("the old token after its end")
		}
	})
}

// Retry-After of the API server counts, up to a minute.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{err: apierrors.NewTooManyRequests("slow down", 20)}
		source := newSource(t, s)
		_, err := source.Token()
		if !apierrors.IsTooManyRequests(err) {
			t.Fatal(err)
		}
		time.Sleep(19 * time.Second)
		if _, err := source.Token(); err == nil || !strings.Contains(err.Error(), "tried again in 1s") || s.asked() != 1 {
			t.Errorf("%d requests, %v", s.asked(), err)
		}
		s.set(func(s *server) { s.err = nil })
		time.Sleep(time.Second)
		mustToken(t, source)
	})
}

// A caller who gives up does not end the request that others wait for.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		source := newSource(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var other sync.WaitGroup
		other.Go(func() { mustToken(t, source) })
		if _, err := source.TokenContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
		other.Wait()
		if s.asked() != 1 {
			t.Errorf("%d requests", s.asked())
		}
	})
}

// A rejected token is refreshed at once; where that fails, it is used on. A service that rejects everything costs one request
// in a second, not one for each call.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		source := newSource(t, s)
		first := mustToken(t, source)
		time.Sleep(time.Minute)
		source.Refused("another")
		if mustToken(t, source) != first {
			t.Error("replaced although another was refused")
		}
		s.set(func(s *server) { s.err = errors.New("no") })
		source.Refused(first)
		if mustToken(t, source) != first || s.asked() != 2 {
			t.Errorf("not used on, or %d requests", s.asked())
		}
		s.set(func(s *server) { s.err = nil })
		time.Sleep(2 * time.Second)
		second := mustToken(t, source)
		if second == first {
			t.Error("not replaced")
		}
		for range 100 {
			source.Refused(mustToken(t, source))
		}
		if s.asked() > 4 {
			t.Errorf("%d requests because of one receiver", s.asked())
		}
	})
}

// What is not the token that was asked for is not handed out.
func TestAnswerIsChecked(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct{ answer, want string }{
		"nothing":         {"SECRET", "segments"},
		"other audiences": {jwttest.Encode(jwt.Claims{Audiences: []string{"evil"}, IssuedAt: now, Expires: now.Add(time.Hour)}), `"evil"`},
		"one year": {
			jwttest.Encode(jwt.Claims{
				Audiences: []string{"vault", "https://billing.example.com"}, IssuedAt: now, WarnAfter: now.Add(3607 * time.Second), Expires: now.AddDate(1, 0, 0),
			}), "it is not used: if its flag --service-account-max-token-expiration is 1h0m7s",
		},
		"no lifetime": {jwttest.Encode(jwt.Claims{Audiences: []string{"vault", "https://billing.example.com"}, IssuedAt: now, Expires: now}), "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := newSource(t, &server{answer: test.answer}).Token()
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "eyJ") {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	valid := Config{Namespace: "n", ServiceAccount: "a", Audiences: []string{"x"}}
	for want, change := range map[string]func(*Config){
		"Namespace is empty":      func(c *Config) { c.Namespace = "" },
		"ServiceAccount is empty": func(c *Config) { c.ServiceAccount = "" },
		"Audiences is empty":      func(c *Config) { c.Audiences = nil },
		"Audiences[1] is empty":   func(c *Config) { c.Audiences = []string{"x", ""} },
		`Audiences[1]: "x"`:       func(c *Config) { c.Audiences = []string{"x", "x"} },
		"Expiration: 9m59s":       func(c *Config) { c.Expiration = 599 * time.Second },
		"Expiration: 10m0.5s":     func(c *Config) { c.Expiration = 600500 * time.Millisecond },
		"one year":                func(c *Config) { c.Expiration = 3607 * time.Second },
		"Expiration: -1s":         func(c *Config) { c.Expiration = -time.Second },
		"both are needed":         func(c *Config) { c.Pod = &Pod{Name: "pod"} },
	} {
		config := valid
		change(&config)
		if _, err := New(&server{}, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got: %v", want, err)
		}
	}
	if _, err := New(&server{}, valid); err != nil {
		t.Error(err)
	}
}

func TestForbiddenIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{err: apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts/token"}, "reconciler", errors.New("no"))}
		if _, err := newSource(t, s).Token(); !apierrors.IsForbidden(err) {
			t.Errorf("the error is %v", err)
		}
	})
}
