package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/podtoken/podtoken/internal/admission"
	"github.com/podtoken/podtoken/internal/config"
	"github.com/podtoken/podtoken/internal/httpserver"
	"github.com/podtoken/podtoken/internal/memorylimit"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/internal/version"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// webhookPath is where AdmissionReviews are served.
const webhookPath = "/mutate"

// Names of the listeners in metrics, after their flags.
const (
	listenerWebhook = "webhook"
	listenerHTTP    = "http"
)

// server is the whole process: the webhook, the plain HTTP server beside it, and what they read from files.
type server struct {
	options     *options
	logger      *slog.Logger
	registry    *prometheus.Registry
	rules       *config.Store[mutate.Config]
	policy      *config.Store[policy.Policy]
	identity    *config.Identity
	certificate *config.Certificate
	clientCA    *config.ClientCA // nil without --client-ca-file
	webhook     *http.Server
	plain       *http.Server
	connections *httpserver.Metrics
	probe       limitedProbe
	probes      probes
	draining    atomic.Bool
}

// newServer wires everything and starts nothing.
func newServer(o *options, stderr io.Writer) *server {
	s := &server{options: o, logger: slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: logLevels[o.logLevel]})), registry: newRegistry()}
	s.rules = config.NewRules(o.config, s.registry, s.logger)
	s.policy = config.NewPolicy(o.policy, s.registry, s.logger)
	s.identity = config.NewIdentity(o.identityToken, s.registry, s.logger)
	s.certificate = config.NewCertificate(o.certDir, s.registry, s.logger)
	if o.clientCA != "" {
		s.clientCA = config.NewClientCA(o.clientCA, s.registry, s.logger)
	}

	s.connections = httpserver.NewMetrics(s.registry, listenerWebhook, listenerHTTP)
	mux := http.NewServeMux()
	mux.Handle(webhookPath, s.closeWhileDraining(admission.NewHandler(admission.Config{
		Rules:              s.rules.Current,
		Policy:             s.policy.Current,
		APIServerAudiences: s.identity.APIServerAudiences,
		Version:            version.Version,
		Metrics:            admission.NewMetrics(s.registry),
		Logger:             s.logger,
		MaxRequestBytes:    o.maxRequestBytes,
		MaxInFlight:        o.maxInFlight,
		MaxDuration:        admission.DefaultMaxDuration,
	})))
	mux.HandleFunc("/", notFound)
	s.webhook = httpserver.NewServer(mux, s.logger)
	s.plain = httpserver.NewServer(httpserver.Plain(s.plainHandler()), s.logger)
	return s
}

// newRegistry returns a registry with the metrics of the process.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "podtoken_build_info",
		Help: "1, with the version of podtoken and of Go as labels.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version.Version, runtime.Version()).Set(1)
	registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// newListener returns what accepts the connections of the webhook. It speaks HTTP/1.1, as API servers do with webhooks
// behind a Service. Those at https://localhost they offer HTTP/2 as well, and take HTTP/1.1
// (k8s.io/apiserver@v0.37.2/pkg/util/webhook/client.go).
func (s *server) newListener(inner net.Listener) *httpserver.Listener {
	settings := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.certificate.GetCertificate,
		NextProtos:     []string{"http/1.1"},
		// An API server never resumes a session, so tickets would only make handshakes longer.
		SessionTicketsDisabled: true,
	}
	if s.clientCA != nil {
		settings = s.clientCA.Require(settings)
	}
	return httpserver.NewListener(inner, httpserver.Config{
		Name: listenerWebhook, Metrics: s.connections,
		Limits: httpserver.Limits{Connections: s.options.maxConnections, PerAddress: s.options.maxPerAddress},
		TLS:    settings,
		Logger: s.logger,
		Quiet:  s.probes.has,
	})
}

// notFound answers what is not for the webhook, and keeps no connection for it.
func notFound(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	http.NotFound(w, r)
}

// closeWhileDraining tells clients to take their next request to another replica.
func (s *server) closeWhileDraining(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// Run serves until ctx is done, then drains:
//
//  1. /readyz turns 503, so that the Service drops this replica, and every answer closes its connection.
//  2. For the drain delay everything is served as before: API servers learn of 1 with a delay.
//  3. The webhook's listener closes; requests in flight are answered (each has a deadline).
//  4. The plain HTTP server, for metrics and probes, closes last.
func (s *server) Run(ctx context.Context) error {
	memorylimit.Apply(s.logger)
	if err := s.rules.Load(); err != nil {
		return fmt.Errorf("loading the configuration: %w", err)
	}
	if err := s.policy.Load(); err != nil {
		return fmt.Errorf("loading the policy: %w", err)
	}
	if err := s.identity.Load(); err != nil {
		return fmt.Errorf("loading our own token: %w", err)
	}
	if s.clientCA != nil {
		if err := s.clientCA.Load(); err != nil {
			return fmt.Errorf("loading the CA of client certificates: %w", err)
		}
	}
	if err := s.certificate.Load(); err != nil {
		// Not fatal: the certificate may be written after the webhook starts. Not ready until it is there.
		s.logger.Warn("Waiting for a serving certificate", "error", err)
	}
	plainListener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.options.httpBindAddress)
	if err != nil {
		return fmt.Errorf("listening on --http-bind-address: %w", err)
	}
	defer func() { _ = plainListener.Close() }()
	webhookListener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.options.webhookBindAddress)
	if err != nil {
		return fmt.Errorf("listening on --webhook-bind-address: %w", err)
	}
	defer func() { _ = webhookListener.Close() }()

	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	background.Go(func() { s.rules.Watch(serving, s.options.reloadInterval) })
	background.Go(func() { s.policy.Watch(serving, s.options.reloadInterval) })
	background.Go(func() { s.identity.Watch(serving, s.options.reloadInterval) })
	background.Go(func() { s.certificate.Watch(serving, s.options.reloadInterval) })
	if s.clientCA != nil {
		background.Go(func() { s.clientCA.Watch(serving, s.options.reloadInterval) })
	}

	failed := make(chan error, 2)
	plain := httpserver.NewListener(plainListener, httpserver.Config{
		Name: listenerHTTP, Metrics: s.connections, Limits: httpserver.PlainLimits(), Logger: s.logger,
	})
	background.Go(func() { failed <- fmt.Errorf("serving on --http-bind-address: %w", plain.Serve(s.plain)) })
	defer func() { _ = s.plain.Close() }()
	webhook := s.newListener(webhookListener)
	background.Go(func() { failed <- fmt.Errorf("serving on --webhook-bind-address: %w", webhook.Serve(s.webhook)) })
	defer func() { _ = s.webhook.Close() }()
	s.logger.Info("Serving", "version", version.Version, "webhookAddress", s.options.webhookBindAddress, "httpAddress", s.options.httpBindAddress)

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.logger.Info("Draining", "delay", s.options.drainDelay.String())
	select {
	case err := <-failed:
		return fmt.Errorf("while draining: %w", err)
	case <-time.After(s.options.drainDelay):
	}
	ending, cancel := context.WithTimeout(serving, shutdownTimeout)
	defer cancel()
	if err := s.webhook.Shutdown(ending); err != nil {
		return fmt.Errorf("stopping the webhook: %w", err)
	}
	s.logger.Info("Stopped")
	return nil
}

// shutdownTimeout is longer than the deadline of any review.
const shutdownTimeout = time.Minute
