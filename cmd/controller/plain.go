package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// probeTimeout is less than what the kubelet gives a probe by default, one second.
const probeTimeout = 500 * time.Millisecond

// newPlainServer returns the server of metrics and probes. Its clients send a few hundred bytes and read at most a few
// hundred kilobytes, so everything has a tight limit.
func newPlainServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
}

func (c *controller) plainHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", c.serveReadyz)
	return mux
}

// serveReadyz answers 200 when the caches are filled: this replica leads, or could from one moment to the next.
func (c *controller) serveReadyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	if !c.manager.GetCache().WaitForCacheSync(ctx) {
		http.Error(w, "caches: not filled yet; is the API server reachable, and may we list and watch what we need?", http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}
