package httpserver

import (
	"log/slog"
	"net/http"
	"time"
)

const (
	// headerTimeout bounds a TLS handshake, and a header from its first byte on.
	headerTimeout = 5 * time.Second
	// bodyTimeout bounds a body, unless the handler sets a deadline of its own.
	bodyTimeout = time.Second
	// idleTimeout bounds the time without a request, before the first one too. Go's clients, of which API servers are and Prometheus
	// is, close what was idle for 90 s, also connections that they dialed in a burst and never used. If we closed first, a request could
	// meet a connection that ends, and is not repeated when a part of it was written.
	idleTimeout = 2 * time.Minute
	// headerBytes bounds a header. net/http adds 4 KiB. API servers send some 400 bytes, with a token in it 2 KiB.
	headerBytes = 4 << 10
)

// NewServer returns a server with the limits that net/http knows, for requests and answers that take a few seconds at
// most. It speaks HTTP/1.1 only: with HTTP/2 one connection would be as many callers as it likes, and no caller needs it.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           withBodyTimeout(handler),
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          newErrorLog(logger),
	}
}

// withBodyTimeout is in place of the server's ReadTimeout, which counts from when the connection was accepted.
func withBodyTimeout(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		next.ServeHTTP(w, r)
	})
}

// PlainLimits are those of a server of metrics and probes. Its callers are a kubelet and a few Prometheus; but the more
// connections there may be, the longer strangers need to use them up again, and the kubelet's probe to be answered.
func PlainLimits() Limits { return Limits{Connections: 256, PerAddress: 192} }

// Plain is a handler of metrics and probes: a request for what there is has been delivered.
func Plain(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Delivered(r.Context())
		handler.ServeHTTP(w, r)
	})
}
