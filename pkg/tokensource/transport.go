package tokensource

import (
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// Transport sends the token of a Source along with each request, as "Authorization: Bearer ...".
//
// A request that has an Authorization header already keeps it. One that follows a redirect gets the token only on the same
// host and port, and not on plain HTTP after HTTPS: else a redirect could carry the token to anybody. Once redirects have led
// elsewhere none of the following has it, as in net/http: who was asked there would choose what is done with the token here.
//
// An answer 401 is given once to the Source, which may have another token by now: the signing key may just have been replaced.
// If it has, the request is sent once more with that one, where this is safe:
//
//   - its method is GET, HEAD, OPTIONS or TRACE, or it has an Idempotency-Key or X-Idempotency-Key header, which is what
//     net/http itself repeats. A 401 should mean that nothing was done; but some services pass on the 401 of a service behind
//     them, after they have done half of their work.
//   - its body can be had again: it has none, or GetBody is set, as http.NewRequest does for bodies in memory.
//
// Otherwise the 401 is returned, and the next request has the new token.
type Transport struct {
	source Source
	base   http.RoundTripper
}

// NewTransport returns a Transport. Without a base it sends requests with http.DefaultTransport.
func NewTransport(source Source, base http.RoundTripper) *Transport {
	if base == nil {
		base = http.DefaultTransport
	}
	return &Transport{source: source, base: base}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL == nil || request.Header == nil {
		return t.base.RoundTrip(request) // which says what is wrong, as that of net/http
	}
	if request.Header.Get("Authorization") != "" || !mayHaveToken(request) {
		return t.base.RoundTrip(request)
	}
	token, err := t.source.TokenContext(request.Context())
	if err != nil {
		closeBody(request)
		return nil, err
	}
	answer, err := t.base.RoundTrip(withToken(request, request.Body, token))
	if err != nil || answer.StatusCode != http.StatusUnauthorized {
		return answer, err
	}
	t.source.Refused(token.AccessToken)
	again := t.again(request, token)
	if again == nil {
		return answer, nil
	}
	// What is left of the first answer is read, so that its connection can be used again, unless it is long.
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10)
	_ = answer.Body.Close()
	return t.base.RoundTrip(again)
}

// again is the request that is sent after a 401; nil if none should be.
func (t *Transport) again(request *http.Request, refused *oauth2.Token) *http.Request {
	if !repeatable(request) {
		return nil
	}
	token, err := t.source.TokenContext(request.Context())
	if err != nil || token.AccessToken == refused.AccessToken {
		return nil
	}
	body := request.Body
	if request.GetBody != nil {
		if body, err = request.GetBody(); err != nil {
			return nil
		}
	}
	return withToken(request, body, token)
}

// withToken is the request with a token, and with nothing in common with the caller's that would be changed.
func withToken(request *http.Request, body io.ReadCloser, token *oauth2.Token) *http.Request {
	sent := request.Clone(request.Context())
	sent.Body = body
	token.SetAuthHeader(sent)
	return sent
}

// repeatable tells whether a request may be sent twice.
func repeatable(request *http.Request) bool {
	if request.Body != nil && request.Body != http.NoBody && request.GetBody == nil {
		return false
	}
	switch request.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := request.Header["Idempotency-Key"]
	_, xKey := request.Header["X-Idempotency-Key"]
	return key || xKey
}

// mayHaveToken tells whether a request goes to where its author sent it, and not to where a redirect led. On the same host
// another port is another service.
func mayHaveToken(request *http.Request) bool {
	for after := request; after.Response != nil; {
		before := after.Response.Request
		if before == nil || !samePlace(before.URL, after.URL) {
			return false // without a request, somebody's RoundTripper does not say what it answered
		}
		after = before
	}
	return true
}

func samePlace(from, to *url.URL) bool {
	if !strings.EqualFold(from.Hostname(), to.Hostname()) {
		return false
	}
	upgraded := from.Scheme == "http" && port(from) == "80" && to.Scheme == "https" && port(to) == "443"
	return upgraded || from.Scheme == to.Scheme && port(from) == port(to)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// closeBody does what a RoundTripper must also when it fails.
func closeBody(request *http.Request) {
	if request.Body != nil {
		_ = request.Body.Close()
	}
}
