package httpserver

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pipes is a net.Listener of connections in memory, whose deadlines go by the bubble's time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// Clients keep connections that they have never used for 90 s. The first request on one of them is answered as any other; it is the header
// that has little time, and the connection that is never used that ends.
func TestFirstRequest(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, test := range map[string]struct {
		send     func(c net.Conn) error
		answered bool
	}{
		"at once": {func(c net.Conn) error { _, err := io.WriteString(c, request); return err }, true},
		"after a minute and a half": {func(c net.Conn) error {
			time.Sleep(90 * time.Second)
			_, err := io.WriteString(c, request)
			return err
		}, true},
		"a header in two parts": {func(c net.Conn) error {
			time.Sleep(time.Minute)
			_, first := io.WriteString(c, request[:3])
			time.Sleep(headerTimeout - time.Second)
			_, second := io.WriteString(c, request[3:])
			return errors.Join(first, second)
		}, true},
		"a header that takes too long": {func(c net.Conn) error {
			_, first := io.WriteString(c, request[:3])
			time.Sleep(headerTimeout + time.Second)
			_, second := io.WriteString(c, request[3:])
			return errors.Join(first, second)
		}, false},
		"never": {func(net.Conn) error { time.Sleep(idleTimeout + time.Second); return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner, logger := make(pipes, 1), slog.New(slog.DiscardHandler)
				server := NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answer") }), logger)
				listener := NewListener(inner, Config{Limits: Limits{Connections: 4, PerAddress: 4}, Logger: logger, Metrics: NewMetrics(prometheus.NewRegistry())})
				done := make(chan struct{})
				go func() { defer close(done); _ = listener.Serve(server) }()
				client, accepted := net.Pipe()
				inner <- accepted
				sent := make(chan error, 1)
				go func() { sent <- test.send(client) }()
				response, err := http.ReadResponse(bufio.NewReader(client), nil)
				if answered := err == nil && response.StatusCode == http.StatusOK; answered != test.answered {
					t.Errorf("answered: %t (%v), want %t", answered, err, test.answered)
				}
				<-sent
				_ = client.Close()
				_ = server.Close()
				<-done
			})
		})
	}
}
