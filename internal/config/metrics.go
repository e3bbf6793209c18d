package config

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label result.
const (
	resultSuccess = "success"
	resultFailure = "failure"
)

// metrics of one Store.
type metrics struct {
	reloads     *prometheus.CounterVec
	healthy     prometheus.Gauge
	lastSuccess prometheus.Gauge
}

func newMetrics(noun string, registry prometheus.Registerer) metrics {
	m := metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podtoken_" + noun + "_reloads_total",
			Help: "Contents of the files that were taken into use (success) or refused (failure), the first ones included.",
		}, []string{"result"}),
		healthy: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podtoken_" + noun + "_last_reload_successful",
			Help: "1 when the files are as good as what is in use, 0 while they are refused and an older content is in use.",
		}),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podtoken_" + noun + "_last_reload_success_timestamp_seconds",
			Help: "Unix time at which the files were last taken into use, or found to be those in use again.",
		}),
	}
	m.reloads.WithLabelValues(resultSuccess)
	m.reloads.WithLabelValues(resultFailure)
	registry.MustRegister(m.reloads, m.healthy, m.lastSuccess)
	return m
}

func (m metrics) succeeded(at time.Time) {
	m.reloads.WithLabelValues(resultSuccess).Inc()
	m.healthy.Set(1)
	m.lastSuccess.Set(float64(at.UnixMilli()) / 1000)
}

func (m metrics) failed() {
	m.reloads.WithLabelValues(resultFailure).Inc()
	m.healthy.Set(0)
}
