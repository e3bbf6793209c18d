package admission

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipeListener is a listener whose connections live in memory, so that deadlines follow a synctest bubble's clock.
type pipeListener struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{connections: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case connection := <-l.connections:
		return connection, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.connections <- server
	return client
}

// serveInBubble runs body with a connection to a server of h, all in a bubble with its own clock.
func serveInBubble(t *testing.T, body func(t *testing.T, h *harness, connection net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		listener := newPipeListener()
		server := &http.Server{Handler: h, ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 90 * time.Second}
		go server.Serve(listener) // ends with ErrServerClosed
		connection := listener.dial()
		body(t, h, connection)
		_ = connection.Close()
		_ = server.Close()
	})
}

func send(t *testing.T, connection net.Conn, query, body string, announced int) {
	t.Helper()
	_, err := fmt.Fprintf(connection, "POST /mutate%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		query, announced, body)
	if err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, reader *bufio.Reader) (*http.Response, string) {
	t.Helper()
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

func TestSlowBodyRunsIntoTheDeadline(t *testing.T) {
	tests := map[string]struct {
		query string
		want  time.Duration
	}{
		"two seconds":                             {"?timeout=5s", 2 * time.Second},
		"two seconds without a timeout":           {"", 2 * time.Second},
		"two seconds for a long timeout":          {"?timeout=30s", 2 * time.Second},
		"two seconds for a timeout of rubbish":    {"?timeout=soon", 2 * time.Second},
		"two seconds for a negative timeout":      {"?timeout=-1s", 2 * time.Second},
		"nine tenths of the client's timeout":     {"?timeout=2s", 1800 * time.Millisecond},
		"nine tenths of a client's short timeout": {"?timeout=100ms", 90 * time.Millisecond},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			serveInBubble(t, func(t *testing.T, h *harness, connection net.Conn) {
				start := time.Now()
				send(t, connection, test.query, "{", 100)
				response, text := receive(t, bufio.NewReader(connection))
				if response.StatusCode != http.StatusRequestTimeout || !strings.Contains(text, "did not arrive in time") {
					t.Errorf("got %d %q, want 408 and why", response.StatusCode, text)
				}
				if got := time.Since(start); got != test.want {
					t.Errorf("answered after %v, want %v", got, test.want)
				}
				if !response.Close {
					t.Error("the connection stays open, with a body that is not read")
				}
				if got := h.counts(t)["Error/Deadline"]; got != 1 {
					t.Errorf("Error/Deadline = %d, want 1", got)
				}
			})
		})
	}
}

// The deadlines of one review must not cut the next one on the same connection short.
func TestDeadlineIsOverWithTheReview(t *testing.T) {
	serveInBubble(t, func(t *testing.T, _ *harness, connection net.Conn) {
		reader := bufio.NewReader(connection)
		body := reviewOf(asksForVault)
		for range 3 {
			send(t, connection, "?timeout=2s", body, len(body))
			if response, text := receive(t, reader); response.StatusCode != http.StatusOK || response.Close {
				t.Fatalf("got %d, close %v: %s", response.StatusCode, response.Close, text)
			}
			time.Sleep(time.Minute) // the bubble's time
		}
	})
}

// A body that comes slowly, but in time, is answered.
func TestSlowBodyInTime(t *testing.T) {
	serveInBubble(t, func(t *testing.T, _ *harness, connection net.Conn) {
		body := reviewOf(asksForVault)
		send(t, connection, "?timeout=5s", body[:100], len(body))
		time.Sleep(1900 * time.Millisecond) // the bubble's time
		if _, err := io.WriteString(connection, body[100:]); err != nil {
			t.Fatal(err)
		}
		if response, text := receive(t, bufio.NewReader(connection)); response.StatusCode != http.StatusOK {
			t.Errorf("got %d: %s", response.StatusCode, text)
		}
	})
}
