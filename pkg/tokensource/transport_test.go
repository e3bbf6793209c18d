package tokensource

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
)

// scripted is a Source with a new token after each refusal, as long as there are some.
type scripted struct {
	mu      sync.Mutex
	tokens  []string
	refused []string
	err     error
}

func (s *scripted) Token() (*oauth2.Token, error) { return s.TokenContext(context.Background()) }

func (s *scripted) TokenContext(context.Context) (*oauth2.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	return &oauth2.Token{AccessToken: s.tokens[0], TokenType: "Bearer"}, nil
}

func (s *scripted) Refused(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, token)
	if len(s.tokens) > 1 && s.tokens[0] == token {
		s.tokens = s.tokens[1:]
	}
}

// onlyReader hides what a body is, so that http.NewRequest cannot set GetBody.
type onlyReader struct{ io.Reader }

func TestTransportRepeatsAfter401WhereThatIsSafe(t *testing.T) {
	type want struct {
		Status int
		Sent   []string // "token body" for each request
	}
	tests := map[string]struct {
		method string
		body   io.Reader
		header string
		tokens []string
		want   want
	}{
		"GET":                  {method: "GET", tokens: []string{"old", "new"}, want: want{200, []string{"old ", "new "}}},
		"no method is GET":     {method: "", tokens: []string{"old", "new"}, want: want{200, []string{"old ", "new "}}},
		"only once":            {method: "GET", tokens: []string{"old", "older", "new"}, want: want{401, []string{"old ", "older "}}},
		"not with the same":    {method: "GET", tokens: []string{"old"}, want: want{401, []string{"old "}}},
		"not needed":           {method: "GET", tokens: []string{"new"}, want: want{200, []string{"new "}}},
		"a body in memory":     {method: "GET", body: strings.NewReader("text"), tokens: []string{"old", "new"}, want: want{200, []string{"old text", "new text"}}},
		"a body that is gone":  {method: "GET", body: onlyReader{strings.NewReader("text")}, tokens: []string{"old", "new"}, want: want{401, []string{"old text"}}},
		"POST is not repeated": {method: "POST", body: strings.NewReader("text"), tokens: []string{"old", "new"}, want: want{401, []string{"old text"}}},
		"nor PUT":              {method: "PUT", body: strings.NewReader("text"), tokens: []string{"old", "new"}, want: want{401, []string{"old text"}}},
		"nor DELETE":           {method: "DELETE", tokens: []string{"old", "new"}, want: want{401, []string{"old "}}},
		"POST with a key":      {method: "POST", body: strings.NewReader("text"), header: "Idempotency-Key", tokens: []string{"old", "new"}, want: want{200, []string{"old text", "new text"}}},
		"the key's other name": {method: "POST", header: "X-Idempotency-Key", tokens: []string{"old", "new"}, want: want{200, []string{"old ", "new "}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got want
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				body, _ := io.ReadAll(r.Body)
				got.Sent = append(got.Sent, token+" "+string(body))
				if token != "new" {
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = w.Write(make([]byte, 100))
				}
			}))
			defer server.Close()
			source := &scripted{tokens: test.tokens}
			request, err := http.NewRequestWithContext(t.Context(), test.method, server.URL, test.body)
			if err != nil {
				t.Fatal(err)
			}
			request.Method = test.method
			if test.header != "" {
				request.Header.Set(test.header, "1")
			}
			answer, err := NewTransport(source, nil).RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			got.Status = answer.StatusCode
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if request.Header.Get("Authorization") != "" {
				t.Error("the caller's request was changed")
			}
		})
	}
}

// A refused token is told to the source also where the request is not repeated: the next one has the new token.
func TestTransportTellsTheSource(t *testing.T) {
	source := &scripted{tokens: []string{"old", "new"}}
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		status := http.StatusUnauthorized
		if r.Header.Get("Authorization") == "Bearer new" {
			status = http.StatusOK
		}
		return &http.Response{StatusCode: status, Body: http.NoBody, Request: r}, nil
	})
	client := &http.Client{Transport: NewTransport(source, base)}
	for i, want := range []int{401, 200} {
		answer, err := client.Post("http://service/", "text/plain", strings.NewReader("x"))
		if err != nil || answer.StatusCode != want {
			t.Fatalf("request %d: %v, %v", i, answer, err)
		}
	}
	if diff := cmp.Diff([]string{"old"}, source.refused); diff != "" {
		t.Error(diff)
	}
}

// A request of which there is no token is not sent, and its error can be told from others.
func TestTransportWithoutToken(t *testing.T) {
	source := &scripted{err: ErrExpired}
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent without a token")
		return nil, errors.New("no")
	})
	body := &closable{Reader: strings.NewReader("x")}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://service/", body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&http.Client{Transport: NewTransport(source, base)}).Do(request); !errors.Is(err, ErrExpired) {
		t.Errorf("the error is %v", err)
	}
	if !body.closed {
		t.Error("the body was not closed")
	}
}

// A redirect does not carry the token to anybody else.
func TestTransportAndRedirects(t *testing.T) {
	tests := map[string]struct {
		from, to string
		want     bool
	}{
		"the same place":         {"https://service.example/a", "https://service.example/b", true},
		"in other letters":       {"https://service.example/a", "https://SERVICE.example:443/b", true},
		"from HTTP to HTTPS":     {"http://service.example/a", "https://service.example/b", true},
		"from HTTPS to HTTP":     {"https://service.example/a", "http://service.example/b", false},
		"with the port of HTTPS": {"https://service.example/a", "http://service.example:443/b", false},
		"another port":           {"https://service.example/a", "https://service.example:8443/b", false},
		"another host":           {"https://service.example/a", "https://evil.example/b", false},
		"a host below":           {"https://service.example/a", "https://below.service.example/b", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []bool
			base := roundTripper(func(r *http.Request) (*http.Response, error) {
				got = append(got, r.Header.Get("Authorization") == "Bearer token")
				answer := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}
				if len(got) < 3 {
					answer.StatusCode, answer.Header = http.StatusFound, http.Header{"Location": {test.to}}
				}
				return answer, nil
			})
			answer, err := (&http.Client{Transport: NewTransport(&scripted{tokens: []string{"token"}}, base)}).Get(test.from)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			// The second redirect leads to the same place as the first: it is where the author sent the request that counts.
			if diff := cmp.Diff([]bool{true, test.want, test.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Who is asked elsewhere does not choose what is done with the token where it belongs.
func TestTransportAfterARedirectElsewhere(t *testing.T) {
	var got []bool
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		got = append(got, r.Header.Get("Authorization") == "Bearer token")
		answer := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}
		if to := []string{"https://service.example/b", "https://evil.example/", "https://service.example/delete"}; len(got) <= len(to) {
			answer.StatusCode, answer.Header = http.StatusFound, http.Header{"Location": {to[len(got)-1]}}
		}
		return answer, nil
	})
	answer, err := (&http.Client{Transport: NewTransport(&scripted{tokens: []string{"token"}}, base)}).Get("https://service.example/a")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if diff := cmp.Diff([]bool{true, true, false, false}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A request that is none is an error, as without this Transport.
func TestTransportWithoutARequest(t *testing.T) {
	for name, request := range map[string]*http.Request{
		"no URL":    {Method: http.MethodGet, Header: http.Header{}},
		"no header": {Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "service.example"}},
	} {
		answer, err := NewTransport(&scripted{tokens: []string{"token"}}, nil).RoundTrip(request)
		if err == nil {
			_ = answer.Body.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTransportKeepsAnAuthorization(t *testing.T) {
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		if got := r.Header.Get("Authorization"); got != "Basic x" {
			t.Errorf("the header is %q", got)
		}
		return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody, Request: r}, nil
	})
	source := &scripted{tokens: []string{"token"}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://service/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Basic x")
	answer, err := NewTransport(source, base).RoundTrip(request)
	if err != nil || answer.StatusCode != http.StatusUnauthorized || source.refused != nil {
		t.Errorf("got %v, %v, refused %q", answer, err, source.refused)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

type closable struct {
	io.Reader
	closed bool
}

func (c *closable) Close() error { c.closed = true; return nil }
