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
