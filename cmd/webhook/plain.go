package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// probeTimeout bounds the handshake with ourselves; the kubelet gives a probe one second by default.
const probeTimeout = 900 * time.Millisecond

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
	if s.certificate.Current() == nil {
		missing = append(missing, "tls: no serving certificate was read yet")
	} else if err := s.probe.result(ctx, probeTimeout, s.probeTLS); err != nil {
		missing = append(missing, "tls: "+err.Error())
	}
	if len(missing) > 0 {
		http.Error(w, strings.Join(missing, "\n"), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

// probeTLS connects to our own webhook as an API server would, and checks that the certificate it gets is valid now.
// Whether a client trusts it is for the client to say: we do not know its CA.
func (s *server) probeTLS(ctx context.Context) error {
	wire, err := new(net.Dialer).DialContext(ctx, "tcp", s.options.webhookBindAddress)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", s.options.webhookBindAddress, err)
	}
	defer func() { _ = wire.Close() }()
	s.probes.add(wire.LocalAddr())
	connection := tls.Client(wire, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // nothing is sent, and what we can know of the certificate is checked below
	})
	if err := connection.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("connecting to %s: %w", s.options.webhookBindAddress, err)
	}
	served := connection.ConnectionState().PeerCertificates[0] // a server always has one in TLS 1.3
	return checkValidity(served, time.Now())
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

// probes are the addresses from which the webhook connects to itself. With --client-ca-file these handshakes fail after the
// certificate was seen, which is nothing to log.
type probes struct{ addresses sync.Map }

func (p *probes) add(local net.Addr) {
	p.addresses.Store(local.String(), nil)
	time.AfterFunc(10*time.Second, func() { p.addresses.Delete(local.String()) }) // the handshake fails after we have gone
}

func (p *probes) has(remote net.Addr) bool {
	_, ok := p.addresses.Load(remote.String())
	return ok
}
