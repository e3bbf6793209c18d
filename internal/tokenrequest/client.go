// Package tokenrequest asks the Kubernetes API server for tokens of one ServiceAccount, bound to one pod. It is a
// client of one endpoint: POST /api/v1/namespaces/NAMESPACE/serviceaccounts/NAME/token.
//
// What it holds on to: TLS 1.2 at least, the cluster's own CA and no other, no proxy from the environment (the request
// carries a credential), no redirects, bounded time and bounded answers; credential and CA are read again for every
// request, because the kubelet replaces them. The credential can be renewed in memory as well: see credentials. No error
// has any part of a token in it.
//
// The package runs in every pod of podtoken's users: standard library and pkg/... only. client-go would add 20 million
// bytes.
package tokenrequest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

const (
	// requestTimeout is what the API server grants itself for a request (34 s, k8s.io/apiserver's handlers/create.go), and a
	// little: a foreign webhook that does not answer and is then ignored takes 10 s of it, the queue of priority and
	// fairness up to 15.
	requestTimeout = 35 * time.Second
	// connectTimeout bounds each of the two steps of connecting. A connection that is being made outlives its request.
	connectTimeout = 10 * time.Second
	// pingAfter is how long a connection may be silent while a request waits, and pingTimeout how long it then has to show
	// that the server is still there.
	pingAfter   = 5 * time.Second
	pingTimeout = 5 * time.Second
	// idleTimeout closes connections that Idle was not called for.
	idleTimeout = 5 * time.Second
	// maxAnswerBytes: a token with 8 audiences has some 2 kB; certificates in a claim could make it ten times that.
	maxAnswerBytes = 256 << 10
	// maxFileBytes bounds our own credential and the CA bundle.
	maxFileBytes = 1 << 20
)

// Config is where the API server is and who asks.
type Config struct {
	// Host and Port as the kubelet gives them in KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT; IPv6 without brackets.
	Host, Port string
	// CredentialDir holds the files token and ca.crt.
	CredentialDir string
	Pod           config.Pod
	UserAgent     string
}

// Client is a sidecar.Minter.
type Client struct {
	config      Config
	endpoint    string
	credentials *credentials

	mu        sync.Mutex
	authority []byte // the PEM that transport trusts
	transport *http.Transport
}

var _ sidecar.Minter = (*Client)(nil)

// New makes a Client; it does no I/O.
func New(c Config) (*Client, error) {
	if c.Host == "" || c.Port == "" {
		return nil, errors.New("the API server's address is unknown: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set, as the kubelet does in every container")
	}
	endpoint := url.URL{
		Scheme: "https",
		Host:   net.JoinHostPort(strings.Trim(c.Host, "[]"), c.Port),
		Path:   "/api/v1/namespaces/" + c.Pod.Namespace + "/serviceaccounts/" + c.Pod.ServiceAccount + "/token",
	}
	return &Client{config: c, endpoint: endpoint.String(), credentials: newCredentials(filepath.Join(c.CredentialDir, "token"))}, nil
}

// Mint asks for one token and holds the answer against what was asked. Every error is a *sidecar.Error.
func (c *Client) Mint(ctx context.Context, spec api.TokenSpec) (sidecar.Token, error) {
	if len(spec.Audiences) == 0 {
		// The API server would fill in its own audience: an API credential.
		return sidecar.Token{}, &sidecar.Error{Class: sidecar.ClassConfiguration, Message: "no audience to ask for"}
	}
	return c.ask(ctx, spec)
}

// ask tries the credentials one after the other: which one is refused cannot be known beforehand.
func (c *Client) ask(ctx context.Context, spec api.TokenSpec) (sidecar.Token, error) {
	all, err := c.credentials.candidates()
	if err != nil {
		return sidecar.Token{}, err
	}
	var refusal error
	for _, credential := range all {
		token, err := c.try(ctx, spec, credential)
		if e, ok := errors.AsType[*sidecar.Error](err); !ok || e.Class != sidecar.ClassUnauthorized {
			return token, err
		}
		refusal = err
	}
	// The kubelet may have replaced the file since it was read.
	again, err := c.credentials.candidates()
	if err == nil && !slices.Contains(all, again[0]) {
		return c.try(ctx, spec, again[0])
	}
	return sidecar.Token{}, refusal
}

// try asks with one credential and remembers whether it was taken.
func (c *Client) try(ctx context.Context, spec api.TokenSpec, credential string) (sidecar.Token, error) {
	token, err := c.mint(ctx, spec, credential)
	e, failed := errors.AsType[*sidecar.Error](err)
	if !failed || e.Status != 0 {
		c.credentials.judge(credential, failed && e.Class == sidecar.ClassUnauthorized)
	}
	return token, err
}

// Credential looks at our own credential, without a request.
func (c *Client) Credential() sidecar.Credential { return c.credentials.look() }

// Renew asks for a credential of the same audiences for the same pod, and keeps it in memory: what the guard of the
// cluster allows.
func (c *Client) Renew(ctx context.Context) (sidecar.Signer, error) {
	audiences := c.credentials.audiences()
	if len(audiences) == 0 {
		return sidecar.Signer{}, &sidecar.Error{Class: sidecar.ClassCredential, Message: "renewing the API credential: the audiences of the present one are unknown"}
	}
	asked := time.Now()
	token, err := c.ask(ctx, api.TokenSpec{Audiences: audiences, ExpirationSeconds: api.RenewalSeconds})
	if err != nil {
		return sidecar.Signer{}, err
	}
	c.credentials.keep(token, asked)
	return sidecar.SignerOf(token.Claims), nil
}

// Idle closes the connections.
func (c *Client) Idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

func (c *Client) mint(ctx context.Context, spec api.TokenSpec, credential string) (sidecar.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(c.request(spec))
	if err != nil {
		return sidecar.Token{}, &sidecar.Error{Class: sidecar.ClassConfiguration, Message: "encoding the request"}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return sidecar.Token{}, networkError(err, credential)
	}
	request.Header.Set("Authorization", "Bearer "+credential)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", c.config.UserAgent)
	transport, err := c.trusted()
	if err != nil {
		return sidecar.Token{}, err
	}
	// The transport itself, not an http.Client: nothing follows redirects.
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return sidecar.Token{}, networkError(err, credential)
	}
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	if err != nil {
		return sidecar.Token{}, networkError(err, credential)
	}
	if answer.StatusCode != http.StatusCreated && answer.StatusCode != http.StatusOK {
		return sidecar.Token{}, refused(answer, content, credential)
	}
	token, err := c.accept(content, spec)
	if err != nil {
		return sidecar.Token{}, &sidecar.Error{Class: sidecar.ClassAnswer, Status: answer.StatusCode, Message: clean(err.Error(), credential)}
	}
	if token.Claims.Extended(token.Expires) {
		return sidecar.Token{}, &sidecar.Error{Class: sidecar.ClassConfiguration, Status: answer.StatusCode, Message: extended(token, spec)}
	}
	return token, nil
}

// extended is about a token that outlives its grant, which is never used: a thief would have it for a year. Admission, and
// with it the guard, cannot see it: the API server shortens a lifetime after admission, and extends what is then 3607 s.
func extended(token sidecar.Token, spec api.TokenSpec) string {
	granted := token.Expires.Sub(token.Claims.IssuedAt).Round(time.Second)
	return fmt.Sprintf("token not used: the API server granted %s of the %s requested, and then made it valid for %s: if its flag "+
		"--service-account-max-token-expiration is %s, change that by a second, or set %s%s to at most 1h",
		granted, time.Duration(spec.ExpirationSeconds)*time.Second, token.Claims.Expires.Sub(token.Claims.IssuedAt), granted, api.AnnotationExpirationOf, spec.Name)
}

func (c *Client) request(spec api.TokenSpec) tokenRequest {
	return tokenRequest{
		APIVersion: apiVersion,
		Kind:       kind,
		Spec: tokenRequestSpec{
			Audiences:         spec.Audiences,
			ExpirationSeconds: spec.ExpirationSeconds,
			BoundObjectRef:    &boundObjectReference{Kind: "Pod", APIVersion: "v1", Name: c.config.Pod.Name, UID: c.config.Pod.UID},
		},
	}
}

// accept decodes an answer and checks that it is the token that was asked for.
func (c *Client) accept(content []byte, spec api.TokenSpec) (sidecar.Token, error) {
	if len(content) > maxAnswerBytes {
		return sidecar.Token{}, fmt.Errorf("the answer is longer than %d bytes", maxAnswerBytes)
	}
	var answer tokenRequest
	if json.Unmarshal(content, &answer) != nil {
		// Not the decoder's own error, which may quote the answer.
		return sidecar.Token{}, errors.New("the answer is not a TokenRequest")
	}
	claims, err := jwt.Parse(answer.Status.Token)
	if err != nil {
		return sidecar.Token{}, err
	}
	pod := c.config.Pod
	switch {
	case claims.PodUID != pod.UID || claims.PodName != pod.Name || claims.Namespace != pod.Namespace:
		return sidecar.Token{}, errors.New("the token is not bound to this pod")
	case claims.ServiceAccountName != pod.ServiceAccount:
		return sidecar.Token{}, errors.New("the token is of another ServiceAccount")
	case !claims.HasAudiences(spec.Audiences):
		return sidecar.Token{}, errors.New("the token lacks an audience that was asked for")
	case answer.Status.ExpirationTimestamp.IsZero():
		return sidecar.Token{}, errors.New("the answer has no expirationTimestamp")
	}
	for _, end := range []time.Time{claims.Expires, answer.Status.ExpirationTimestamp} {
		if end.Sub(claims.IssuedAt) < time.Second {
			return sidecar.Token{}, errors.New("the token ends when it begins")
		}
	}
	return sidecar.Token{
		Secret:  sidecar.Secret(answer.Status.Token),
		Claims:  claims,
		Expires: answer.Status.ExpirationTimestamp,
	}, nil
}

// trusted is a transport that trusts the CA file as it is now.
func (c *Client) trusted() (*http.Transport, error) {
	authority, err := readFile(filepath.Join(c.config.CredentialDir, "ca.crt"))
	if err != nil {
		return nil, &sidecar.Error{Class: sidecar.ClassCredential, Message: "reading the cluster's CA: " + err.Error()}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && bytes.Equal(authority, c.authority) {
		return c.transport, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, &sidecar.Error{Class: sidecar.ClassCredential, Message: "reading the cluster's CA: no certificate in the file"}
	}
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.authority = authority
	c.transport = &http.Transport{
		Proxy:               nil, // never from the environment
		DialContext:         (&net.Dialer{Timeout: connectTimeout, KeepAlive: -1}).DialContext,
		TLSHandshakeTimeout: connectTimeout,
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		// HTTP/2, which every API server speaks: tokens that are due together are asked for at the same time on one
		// connection, for one handshake. A connection that has died in silence is noticed by a ping; over HTTP/1.1, should
		// something in between speak no other, the requests come one after the other.
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxConnsPerHost:        1,
		IdleConnTimeout:        idleTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         2 << 10,
		WriteBufferSize:        2 << 10,
	}
	return c.transport, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxFileBytes))
}

func networkError(err error, credential string) *sidecar.Error {
	message := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		message = fmt.Sprintf("no answer of the API server within %s", requestTimeout)
	}
	return &sidecar.Error{Class: sidecar.ClassNetwork, Message: clean(message, credential)}
}
