package notify

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

func TestPost(t *testing.T) {
	var got struct {
		method, path, contentType, agent, body string
	}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		got.method, got.path, got.contentType, got.agent, got.body = r.Method, r.URL.String(), r.Header.Get("Content-Type"), r.UserAgent(), string(content)
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if err := newPoster("http://"+host+":"+port+"/-/reload?a=b", "v1").deliver(t.Context(), []string{"billing", "vault"}); err != nil {
			t.Fatal(err)
		}
		if want := (struct{ method, path, contentType, agent, body string }{
			"POST", "/-/reload?a=b", "application/json", "podtoken-sidecar/v1", `{"tokens":["billing","vault"]}`,
		}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		got.body = ""
	}
}

// An application that listens on [::1] only is found under the name localhost.
func TestPostToIPv6(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "[::1]:0")
	if err != nil {
		t.Fatalf("this test needs IPv6 on the loopback device: %v", err)
	}
	var requests atomic.Int32
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })}}
	server.Start()
	defer server.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, host := range []string{"localhost", "[::1]"} {
		if err := newPoster("http://"+host+":"+port, "v1").deliver(t.Context(), []string{"a"}); err != nil {
			t.Error(err)
		}
	}
	if requests.Load() != 2 {
		t.Errorf("%d requests, want 2", requests.Load())
	}
}

func TestPostAnswers(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for name, c := range map[string]struct {
		status int
		want   string // the error, none when empty
	}{
		"no content":         {204, ""},
		"any 2xx":            {299, ""},
		"a redirect":         {302, "it answered HTTP 302, and redirects are not followed: give the URL that answers 2xx itself"},
		"one that keeps all": {308, "it answered HTTP 308, and redirects are not followed: give the URL that answers 2xx itself"},
		"not found":          {404, "it answered HTTP 404, want 2xx"},
		"an error":           {500, "it answered HTTP 500, want 2xx"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", other.URL)
				w.WriteHeader(c.status)
			}))
			defer server.Close()
			text := ""
			if err := newPoster(server.URL, "v1").deliver(t.Context(), []string{"a"}); err != nil {
				text = err.Error()
			}
			if text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
			if elsewhere.Load() != 0 {
				t.Error("the redirect was followed")
			}
		})
	}
}

func TestPostErrors(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	err = newPoster("http://"+address+"/reload?key=hidden", "v1").deliver(t.Context(), []string{"a"})
	if !errors.As(err, new(absentError)) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no listener: %v", err)
	}
	if strings.Contains(err.Error(), "hidden") {
		t.Errorf("the query is in the error: %v", err)
	}

	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer hanging.Close()
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := newPoster(hanging.URL, "v1").deliver(expired, []string{"a"}); err == nil ||
		err.Error() != "no answer within 10s: answer first and reload afterwards, if that takes long" {
		t.Errorf("a slow application: %v", err)
	}

	chatty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Long", strings.Repeat("x", 64<<10))
	}))
	defer chatty.Close()
	if err := newPoster(chatty.URL, "v1").deliver(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), "headers exceeded") {
		t.Errorf("endless headers: %v", err)
	}
}

// Whatever comes out of a URL, nothing but the loopback is dialled, and no name is looked up.
func TestOnlyLoopbackIsDialled(t *testing.T) {
	for _, address := range []string{
		"192.0.2.1:80", "10.0.0.1:80", "0.0.0.0:80", "[::]:80", "[2001:db8::1]:80", "[fe80::1%lo]:80", "169.254.169.254:80", "[::1%lo]:80",
		"example.com:80", "localhost.example.com:80", "localhost.:80", "ip6-localhost:80", "127.1:80", "2130706433:80", ":80",
	} {
		connection, err := dialLoopback(t.Context(), "tcp", address)
		if err == nil {
			_ = connection.Close()
			t.Errorf("%s was dialled", address)
			continue
		}
		if !strings.Contains(err.Error(), "is not the pod's own loopback: only localhost, 127.0.0.0/8 and [::1] are allowed") {
			t.Errorf("%s: %v", address, err)
		}
	}
	// The last line of defence looks at the address of the socket itself.
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		"192.0.2.1:80": false, "[2001:db8::1]:80": false, "[::ffff:192.0.2.1]:80": false, "[::1%lo]:80": false, "example.com:80": false, "": false,
	} {
		if err := onlyLoopback(t.Context(), "tcp", address, nil); (err == nil) != want {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestShownURL(t *testing.T) {
	if got := shownURL("http://localhost:80/a/b?key=hidden"); got != "http://localhost:80/a/b" {
		t.Error(got)
	}
	if got := shownURL("http://["); got != "" {
		t.Errorf("what is no URL is shown as %q", got)
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		config config.Config
		want   []Kind
	}{
		{config.Config{}, nil},
		{config.Config{Notify: "http://localhost:1/"}, []Kind{KindHTTP}},
		{config.Config{NotifySignal: config.Signal{Name: "SIGHUP", Process: "a"}}, []Kind{KindSignal}},
		{config.Config{Notify: "http://localhost:1/", NotifySignal: config.Signal{Name: "SIGHUP", Process: "a"}}, []Kind{KindHTTP, KindSignal}},
	} {
		n := New(c.config, "v1", new(lines).logger())
		var got []Kind
		for _, count := range n.Counts() {
			got = append(got, count.Kind)
		}
		wantEqual(t, "kinds", c.want, got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := New(config.Config{}, "v1", new(lines).logger())
	n.Changed([]string{"a"})
	n.Run(ctx)
}
