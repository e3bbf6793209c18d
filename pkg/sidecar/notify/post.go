package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// attemptTimeout bounds one POST, from the connection to the answer's headers.
const attemptTimeout = 10 * time.Second

// body is what is POSTed: the names of the tokens, never a token.
type body struct {
	Tokens []string `json:"tokens"`
}

// poster POSTs to one loopback URL.
type poster struct {
	url, agent string
	transport  http.RoundTripper
}

func newPoster(target, version string) *poster {
	return &poster{
		url:   target,
		agent: "podtoken-sidecar/" + version,
		// Without an http.Client there is nothing that would follow a redirect, which could lead anywhere.
		transport: &http.Transport{
			Proxy:                  nil, // Never from the environment: a proxy is another host.
			DialContext:            dialLoopback,
			DisableKeepAlives:      true, // Changes are hours apart.
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}
}

func (p *poster) deliver(ctx context.Context, tokens []string) error {
	content, err := json.Marshal(body{Tokens: tokens})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", p.agent)
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return absentError{err}
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("no answer within %s: answer first and reload afterwards, if that takes long", attemptTimeout)
		}
		return err
	}
	_ = response.Body.Close() // Unread: the status says it all.
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return fmt.Errorf("it answered HTTP %d, and redirects are not followed: give the URL that answers 2xx itself", status)
	default:
		return fmt.Errorf("it answered HTTP %d, want 2xx", status)
	}
}

// dialLoopback connects to the pod's own loopback and to nothing else. No name is ever looked up: "localhost" is
// 127.0.0.1 and ::1 whatever a resolver would say, and every other name is refused.
func dialLoopback(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	candidates := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if host != "localhost" {
		one, err := netip.ParseAddr(host)
		if err != nil || !one.IsLoopback() || one.Zone() != "" {
			return nil, fmt.Errorf("%q is not the pod's own loopback: only localhost, 127.0.0.0/8 and [::1] are allowed", host)
		}
		candidates = []netip.Addr{one}
	}
	dialer := net.Dialer{ControlContext: onlyLoopback}
	var first error
	for _, candidate := range candidates {
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(candidate.String(), port))
		if err == nil {
			return connection, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// onlyLoopback looks at the address that the socket is about to connect to, however it was come by.
func onlyLoopback(_ context.Context, _, address string, _ syscall.RawConn) error {
	if target, err := netip.ParseAddrPort(address); err != nil || !target.Addr().IsLoopback() || target.Addr().Zone() != "" {
		return fmt.Errorf("%s is not the pod's own loopback", address)
	}
	return nil
}

// shownURL is the URL without its query.
func shownURL(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
