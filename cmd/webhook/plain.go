package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// probeTimeout bounds the handshake with ourselves; the kubelet gives a probe one second by default.
const probeTimeout = 900 * time.Millisecond

// newPlainServer returns the server of metrics and probes. Its clients send a few hundred bytes and read at most a few
// hundred kilobytes, so everything has a tight limit.
func (s *server) newPlainServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          s.serverLog(),
	}
}

func (s *server) plainHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", s.serveReadyz)
	return mux
}

// serveReadyz answers 200 when an API server could get a decision from this replica right now, otherwise 503 with a
// line for everything that is missing.
func (s *server) serveReadyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	var missing []string
	if s.draining.Load() {
		missing = append(missing, "draining: the process is shutting down")
	}
	if s.rules.Current() == nil {
		missing = append(missing, "config: no configuration was read yet")
	}
	if s.policy.Current() == nil {
		missing = append(missing, "policy: no policy was read yet")
	}
	if s.identity.Current() == nil {
		missing = append(missing, "identity: no token of our own was read yet")
	}
	if err := s.probeTLS(ctx, time.Now()); err != nil {
		missing = append(missing, "tls: "+err.Error())
	}
	if len(missing) > 0 {
		http.Error(w, strings.Join(missing, "\n"), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

// probeTLS connects to our own webhook as an API server would, and checks that the certificate it gets is valid at the
// time now. Whether a client trusts it is for the client to say: we do not know its CA.
func (s *server) probeTLS(ctx context.Context, now time.Time) error {
	if s.certificate.Current() == nil {
		return errors.New("no serving certificate was read yet")
	}
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // nothing is sent, and what we can know of the certificate is checked below
	}}
	connection, err := dialer.DialContext(ctx, "tcp", s.options.webhookBindAddress)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", s.options.webhookBindAddress, err)
	}
	defer func() { _ = connection.Close() }()
	served := connection.(*tls.Conn).ConnectionState().PeerCertificates[0] // a server always has one in TLS 1.3
	return checkValidity(served, now)
}

func checkValidity(certificate *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(certificate.NotBefore):
		return fmt.Errorf("the serving certificate is not valid before %s", certificate.NotBefore.Format(time.RFC3339))
	case now.After(certificate.NotAfter):
		return fmt.Errorf("the serving certificate expired at %s", certificate.NotAfter.Format(time.RFC3339))
	}
	return nil
}
