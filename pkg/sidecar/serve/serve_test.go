package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/notify"
)

// pipes is a listener without a network, for tests in a bubble.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
	failure     error
}

func newPipes() *pipes { return &pipes{connections: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		if p.failure != nil {
			return nil, p.failure
		}
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return nil }

// dial waits until the connection is accepted.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.connections <- theirs
	return ours
}

// ask sends text and returns the answer, or what is said when there is none.
func ask(connection net.Conn, text string) (status int, header http.Header, body string) {
	defer func() { _ = connection.Close() }()
	go func() { _, _ = io.WriteString(connection, text) }()
	method, _, _ := strings.Cut(text, " ")
	response, err := http.ReadResponse(bufio.NewReader(connection), &http.Request{Method: method})
	if err != nil {
		return 0, nil, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err.Error()
	}
	return response.StatusCode, response.Header, string(content)
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

// serving runs a test in a bubble, against a server that listens on pipes.
func serving(t *testing.T, test func(s *Server, p *pipes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := New(Config{Port: 9102, Version: "v1", Log: slog.New(slog.DiscardHandler)})
		s.listen = func(context.Context) (net.Listener, error) { return p, nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.Run(ctx)
			close(ended)
		}()
		test(s, p)
		cancel()
		<-ended
	})
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", 9000)
	for name, c := range map[string]struct {
		request string
		status  int
		body    string // its beginning
	}{
		"metrics":               {get("/metrics"), 200, "# HELP podtoken_sidecar_"},
		"health":                {get("/healthz"), 200, "ok\n"},
		"readiness":             {get("/readyz"), 503, "no token file was looked at yet\n"},
		"a query":               {get("/healthz?verbose"), 200, "ok\n"},
		"HTTP/1.0":              {"GET /healthz HTTP/1.0\r\n\r\n", 200, "ok\n"},
		"as a proxy":            {get("http://x/healthz"), 200, "ok\n"},
		"the root":              {get("/"), 404, "there are /metrics, /healthz and /readyz\n"},
		"profiles":              {get("/debug/pprof/heap"), 404, "there are "},
		"a head":                {"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200, ""},
		"a post":                {"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", 405, "only GET and HEAD are answered\n"},
		"a tunnel":              {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET"},
		"no HTTP":               {"hello\r\n\r\n", 400, "this is not an HTTP/1 request\n"},
		"TLS":                   {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "this is not"},
		"HTTP/2":                {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405, "only GET"},
		"a long header":         {"GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: " + long + "\r\n\r\n", 431, "a request has at most 8192 bytes\n"},
		"many headers":          {"GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a: b\r\n", 2000) + "\r\n", 431, "a request has"},
		"a long request line":   {get("/" + long), 431, "a request has"},
		"a header that is none": {"GET /healthz HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n", 400, "this is not"},
		"a second is not read":  {get("/healthz") + get("/metrics"), 200, "ok\n"},
	} {
		t.Run(name, func(t *testing.T) {
			serving(t, func(_ *Server, p *pipes) {
				status, header, body := ask(p.dial(), c.request)
				if status != c.status || !strings.HasPrefix(body, c.body) || c.body == "" && status == 200 && body != "" {
					t.Errorf("HTTP %d %.100q, want %d %q", status, body, c.status, c.body)
				}
				if allow := header.Get("Allow"); (allow == "GET, HEAD") != (status == 405) {
					t.Errorf("Allow is %q", allow)
				}
				if got := header.Get("Content-Type"); got != "text/plain; charset=utf-8" && !(c.body == "" || strings.HasPrefix(c.body, "#")) {
					t.Errorf("Content-Type is %q", got)
				}
			})
		})
	}
}

func TestHeaders(t *testing.T) {
	serving(t, func(_ *Server, p *pipes) {
		_, header, body := ask(p.dial(), get("/metrics"))
		for name, want := range map[string]string{
			"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Content-Length": fmt.Sprint(len(body)),
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Date": "Sat, 01 Jan 2000 00:00:00 GMT",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
}

// A client that says nothing, and one that says it a byte at a time, are cut off; more than 16 of them have to wait for
// that, and nobody for longer.
func TestSlowClients(t *testing.T) {
	serving(t, func(_ *Server, p *pipes) {
		begun := time.Now()
		var writers sync.WaitGroup
		defer writers.Wait()
		for i := range maxConnections {
			slow := p.dial()
			defer func() { _ = slow.Close() }()
			if i%2 == 0 {
				writers.Go(func() {
					for {
						if _, err := slow.Write([]byte("G")); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("16 connections were accepted after %s", took)
		}
		status, _, body := ask(p.dial(), get("/healthz"))
		if took := time.Since(begun); status != 200 || took != 10*time.Second {
			t.Errorf("HTTP %d %q after %s, want 200 after 10s", status, body, took)
		}
	})
}

func TestClientThatNeverReads(t *testing.T) {
	serving(t, func(_ *Server, p *pipes) {
		begun := time.Now()
		deaf := p.dial()
		_, _ = io.WriteString(deaf, get("/metrics"))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if _, err := deaf.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after %s the connection is still open: %v", time.Since(begun), err)
		}
	})
}

// The end closes what is open, at once.
func TestEndDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := New(Config{Log: slog.New(slog.DiscardHandler)})
		s.listen = func(context.Context) (net.Listener, error) { return p, nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.Run(ctx)
			close(ended)
		}()
		open := p.dial()
		defer func() { _ = open.Close() }()
		begun := time.Now()
		cancel()
		<-ended
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

// A port that is taken is logged once and tried again, and so is one that is lost later.
func TestPortTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		handler := slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
		s := New(Config{Port: 9102, Log: slog.New(handler)})
		p := newPipes()
		p.failure = errors.New("out of files")
		begun := time.Now()
		var tried []time.Duration
		s.listen = func(context.Context) (net.Listener, error) {
			tried = append(tried, time.Since(begun))
			switch n := len(tried); {
			case n <= 9:
				return nil, errors.New("address already in use")
			case n == 10:
				return p, nil
			}
			return newPipes(), nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.Run(ctx)
			close(ended)
		}()
		time.Sleep(10 * time.Minute)
		if status, _, _ := ask(p.dial(), get("/healthz")); status != 503 { // Nobody turns the loop here.
			t.Errorf("HTTP %d", status)
		}
		_ = p.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		cancel()
		<-ended
		want := "[0s 1s 3s 7s 15s 31s 1m3s 2m3s 3m3s 4m3s 10m1s]"
		if got := fmt.Sprint(tried); got != want {
			t.Errorf("tried at %s, want %s", got, want)
		}
		const taken = `level=WARN msg="Metrics port cannot be used, trying again; tokens are refreshed all the same" port=9102 error=`
		if got, want := log.String(), taken+"\"address already in use\"\n"+"level=INFO msg=\"Serving metrics\" port=9102\n"+
			taken+"\"out of files\"\n"+"level=INFO msg=\"Serving metrics\" port=9102\n"; got != want {
			t.Errorf("log:\n%s\nwant:\n%s", got, want)
		}
	})
}

// What goes wrong while answering is no concern of the tokens.
func TestPanicIsContained(t *testing.T) {
	serving(t, func(s *Server, p *pipes) {
		s.config.Notifications = func() []notify.Count { panic("broken") }
		if status, _, text := ask(p.dial(), get("/metrics")); status != 0 {
			t.Errorf("HTTP %d: %s", status, text)
		}
		if status, _, _ := ask(p.dial(), get("/healthz")); status != 200 {
			t.Errorf("HTTP %d", status)
		}
	})
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		want := func(status int, body string) {
			t.Helper()
			if a := s.health(); a.status != status || string(a.body) != body {
				t.Errorf("%d %q, want %d %q", a.status, a.body, status, body)
			}
		}
		time.Sleep(5 * time.Minute)
		want(200, "ok\n") // It may still be starting.
		time.Sleep(time.Second)
		want(503, "the sidecar's loop has not turned for 5m1s\n")
		s.Update(sidecar.Snapshot{})
		want(200, "ok\n")
		time.Sleep(5 * time.Minute)
		want(200, "ok\n")
		time.Sleep(time.Minute)
		want(503, "the sidecar's loop has not turned for 6m0s\n")
	})
}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		want := func(status int, body string) {
			t.Helper()
			if a := s.ready(); a.status != status || string(a.body) != body {
				t.Errorf("%d %q, want %d %q", a.status, a.body, status, body)
			}
		}
		want(503, "no token file was looked at yet\n")
		tokens := []sidecar.TokenSnapshot{{Name: "vault"}, {Name: "billing"}}
		s.Update(sidecar.Snapshot{Tokens: tokens})
		want(503, "token \"vault\" does not exist yet\ntoken \"billing\" does not exist yet\n")
		tokens = []sidecar.TokenSnapshot{{Name: "vault", Ends: time.Now().Add(10 * time.Minute)}, {Name: "billing"}}
		s.Update(sidecar.Snapshot{Tokens: tokens})
		want(503, "token \"billing\" does not exist yet\n")
		tokens = []sidecar.TokenSnapshot{tokens[0], {Name: "billing", Ends: time.Now().Add(time.Hour)}}
		s.Update(sidecar.Snapshot{Tokens: tokens})
		want(200, "ok\n")
		time.Sleep(10*time.Minute - time.Nanosecond)
		want(200, "ok\n")
		time.Sleep(time.Nanosecond)
		want(503, "token \"vault\" expired 0s ago, at 2000-01-01T00:10:00Z by this node's clock\n")
		time.Sleep(time.Hour)
		want(503, "token \"vault\" expired 1h0m0s ago, at 2000-01-01T00:10:00Z by this node's clock\ntoken \"billing\" expired 10m0s ago, at 2000-01-01T01:00:00Z by this node's clock\n")
	})
}
