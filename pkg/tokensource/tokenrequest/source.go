package tokenrequest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/tokensource"
)

// When a token is replaced, and how a request that fails is tried again. The first two are those of the sidecar.
const (
	refreshAtPercent = 80
	maxInterval      = 24 * time.Hour
	requestTimeout   = 30 * time.Second
	minBackoff       = time.Second
	maxBackoff       = time.Minute
)

// Source asks for the tokens of one Config and keeps the current one. It implements tokensource.Source, and with it
// oauth2.TokenSource, and is safe for any number of goroutines.
type Source struct {
	client corev1client.ServiceAccountsGetter
	config Config
	flight singleflight.Group

	mu      sync.Mutex
	current *minted
	// failures in a row, the last of them, and when the API server is asked again at the earliest.
	failures int
	lastErr  error
	retryAt  time.Time
}

// minted is a token and when it was asked for, by this machine's clocks: how far they are from the API server's does not
// matter.
type minted struct {
	token    string
	asked    time.Time
	lifetime time.Duration
	// refreshAfter is when the next one is asked for; jitter keeps the replicas of a program apart.
	refreshAfter time.Duration
	refused      bool
}

// New returns the Source of a ServiceAccount's tokens. The client is that of a clientset (clientset.CoreV1()). Nothing is asked
// for before the first token is needed.
func New(client corev1client.ServiceAccountsGetter, config Config) (*Source, error) {
	if config.Expiration == 0 {
		config.Expiration = DefaultExpiration
	}
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("checking the configuration of tokens: %w", err)
	}
	// What the caller does with its own later is nothing to the Source.
	config.Audiences = slices.Clone(config.Audiences)
	if config.Pod != nil {
		pod := *config.Pod
		config.Pod = &pod
	}
	return &Source{client: client, config: config}, nil
}

// NewForConfig is New with a client of its own.
func NewForConfig(restConfig *rest.Config, config Config) (*Source, error) {
	client, err := corev1client.NewForConfig(restConfig)
	if err != nil {
		return nil, err
	}
	return New(client, config)
}

// Token implements oauth2.TokenSource. It waits for the API server for 30 seconds at most, and only if there is no token
// that can be used.
func (s *Source) Token() (*oauth2.Token, error) { return s.TokenContext(context.Background()) }

// TokenContext returns a token that has not expired.
//
//	current token             answer                                request to the API server
//	fresh                     the token                             none
//	past its refresh time     the token                             started, not waited for
//	rejected by a service     the new one; the old if that fails    waited for
//	none, or expired          the new one, or the error             waited for
//
// After a failure the next request comes after a pause, of one second at first and a minute at last; a call in between gets
// what the table says for a request that fails, with the error of before.
func (s *Source) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	s.mu.Lock()
	current, lastErr, pause := s.current, s.lastErr, time.Until(s.retryAt)
	s.mu.Unlock()
	now := time.Now()
	usable := current != nil && current.age(now) < current.lifetime
	wait := !usable || current.refused
	switch {
	case usable && !current.refused && current.age(now) < current.refreshAfter:
		return current.oauth2(), nil
	case pause > 0 && usable:
		return current.oauth2(), nil
	case pause > 0:
		return nil, fmt.Errorf("%w (tried again in %s)", lastErr, pause.Round(time.Second))
	case !wait:
		s.start(ctx)
		return current.oauth2(), nil
	}
	select {
	case result := <-s.start(ctx):
		if result.Err == nil {
			return result.Val.(*minted).oauth2(), nil
		}
		if usable {
			return current.oauth2(), nil
		}
		return nil, result.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a token: %w", context.Cause(ctx))
	}
}

// Refused implements tokensource.Source: a validating service answered 401. If that was the current token, the next TokenContext asks for another.
func (s *Source) Refused(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A service that rejects every token must not make of each request to it one to the API server.
	if s.current != nil && s.current.token == accessToken && s.current.age(time.Now()) > minBackoff {
		refused := *s.current
		refused.refused = true
		s.current = &refused
	}
}

// start asks the API server, unless a request is on its way already. It does not end with the caller that started it: others wait for
// it too.
func (s *Source) start(ctx context.Context) <-chan singleflight.Result {
	return s.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		minted, err := s.mint(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.failed(err)
			return nil, err
		}
		s.current, s.failures, s.lastErr, s.retryAt = minted, 0, nil, time.Time{}
		return minted, nil
	})
}

// failed plans the next request. The caller holds the lock.
func (s *Source) failed(err error) {
	backoff := min(minBackoff<<min(s.failures, 10), maxBackoff)
	backoff = backoff/2 + rand.N(backoff/2) //nolint:gosec // jitter
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		backoff = max(backoff, min(time.Duration(seconds)*time.Second, maxBackoff))
	}
	s.failures++
	s.lastErr, s.retryAt = err, time.Now().Add(backoff)
}

// mint asks the API server once.
func (s *Source) mint(ctx context.Context) (*minted, error) {
	asked := time.Now()
	fail := func(err error) error {
		return fmt.Errorf("requesting a token of ServiceAccount %s/%s for %q: %w", s.config.Namespace, s.config.ServiceAccount, s.config.Audiences, err)
	}
	answer, err := s.client.ServiceAccounts(s.config.Namespace).CreateToken(ctx, s.config.ServiceAccount, s.config.request(), metav1.CreateOptions{})
	if err != nil {
		return nil, fail(err)
	}
	claims, err := jwt.Parse(answer.Status.Token)
	if err != nil {
		return nil, fail(fmt.Errorf("the API server answered with something else: %w", err))
	}
	lifetime := claims.Expires.Sub(claims.IssuedAt)
	switch {
	case !claims.HasAudiences(s.config.Audiences):
		return nil, fail(fmt.Errorf("the API server answered with a token for %q", claims.Audiences))
	case lifetime <= 0:
		return nil, fail(errors.New("the API server answered with a token that has expired"))
	case claims.Extended(answer.Status.ExpirationTimestamp.Time):
		return nil, fail(fmt.Errorf("the API server made a token that lasts %v of the %v requested, it is not used: "+
			"if its flag --service-account-max-token-expiration is 1h0m7s, change that by a second, or set Expiration to at most 1h", lifetime, s.config.Expiration))
	}
	refreshAfter := min(lifetime*refreshAtPercent/100, maxInterval)
	refreshAfter -= rand.N(refreshAfter/10 + 1) //nolint:gosec // jitter
	return &minted{token: answer.Status.Token, asked: asked, lifetime: lifetime, refreshAfter: refreshAfter}, nil
}

// age is the longer of what both clocks say: the monotonic one stands still while a machine is suspended, and the
// other may be set back.
func (m *minted) age(now time.Time) time.Duration {
	return max(now.Sub(m.asked), now.Round(0).Sub(m.asked.Round(0)))
}

func (m *minted) oauth2() *oauth2.Token {
	return &oauth2.Token{AccessToken: m.token, TokenType: "Bearer", Expiry: m.asked.Add(m.lifetime).Round(0)}
}

var _ tokensource.Source = (*Source)(nil)
