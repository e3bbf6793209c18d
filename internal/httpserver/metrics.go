package httpserver

import "github.com/prometheus/client_golang/prometheus"

// Values of the label reason: why a Listener closed a connection that the caller had not ended.
const (
	reasonConnectionLimit = "ConnectionLimit" // to make room, all together were at their limit
	reasonAddressLimit    = "AddressLimit"    // to make room, those of its address were at their limit
	reasonHandshakeFailed = "HandshakeFailed" // no TLS connection came of it
)

// Metrics of the connections of a process.
type Metrics struct {
	open   *prometheus.GaugeVec
	closed *prometheus.CounterVec
}

// NewMetrics registers the metrics of the named Listeners. Every combination of labels is there from the start, at 0, so
// that the first event of a kind is an increase.
func NewMetrics(registry prometheus.Registerer, listeners ...string) *Metrics {
	m := &Metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "podtoken_open_connections",
			Help: "Connections that are open, by listener.",
		}, []string{"listener"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podtoken_connections_closed_total",
			Help: "Connections that were closed at a limit or because of a failed TLS handshake, by listener and reason.",
		}, []string{"listener", "reason"}),
	}
	registry.MustRegister(m.open, m.closed)
	for _, listener := range listeners {
		m.open.WithLabelValues(listener)
		for _, reason := range []string{reasonConnectionLimit, reasonAddressLimit, reasonHandshakeFailed} {
			m.closed.WithLabelValues(listener, reason)
		}
	}
	return m
}
