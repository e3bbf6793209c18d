package httpserver

import (
	"io"
	"maps"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/internal/servertest"
)

// eventually fails unless the metrics get the values soon: connections end a moment after their callers have seen it.
func eventually(t *testing.T, registry *prometheus.Registry, want map[string]float64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := servertest.Metrics(t, registry)
		if maps.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("metrics are %v, want %v", got, want)
		}
	}
}

func metricValues(open, all, address, handshake float64) map[string]float64 {
	return map[string]float64{
		`podtoken_open_connections{listener="test"}`:                                   open,
		`podtoken_connections_closed_total{listener="test"}{reason="ConnectionLimit"}`: all,
		`podtoken_connections_closed_total{listener="test"}{reason="AddressLimit"}`:    address,
		`podtoken_connections_closed_total{listener="test"}{reason="HandshakeFailed"}`: handshake,
	}
}

// What the server closes is counted by why, and each connection once.
func TestClosedConnectionsAreCounted(t *testing.T) {
	source := httptest.NewUnstartedServer(nil)
	source.StartTLS()
	defer source.Close()
	registry := prometheus.NewRegistry()
	metrics := NewMetrics(registry, "test")
	eventually(t, registry, metricValues(0, 0, 0, 0))
	var log servertest.Buffer
	address := serve(t, Config{Metrics: metrics, Limits: Limits{Connections: 5, PerAddress: 4}, TLS: source.TLS}, &log)

	// Six of one address: two of them in the middle of their handshake are closed for others.
	var mine []net.Conn
	for range 6 {
		mine = append(mine, dialFrom(t, "127.0.0.2", address))
	}
	closed(t, mine[0], "the first of six, with four allowed,")
	closed(t, mine[1], "the second of six, with four allowed,")
	eventually(t, registry, metricValues(4, 0, 2, 0))

	// Two of others: all together are one too many.
	dialFrom(t, "127.0.0.3", address)
	dialFrom(t, "127.0.0.4", address)
	eventually(t, registry, metricValues(5, 1, 2, 0))

	// What is no TLS at all.
	if _, err := io.WriteString(mine[5], "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, mine[5])
	eventually(t, registry, metricValues(4, 1, 2, 1))
	// A line is written after its connection was counted.
	for _, want := range []string{`"reason":"AddressLimit"`, `"reason":"ConnectionLimit"`, "TLS handshake failed"} {
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), want); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the log has no %s: %s", want, log.String())
			}
		}
	}
	if got := strings.Count(log.String(), "TLS handshake failed"); got != 1 {
		t.Errorf("%d lines about failed handshakes, want that of the one that the caller failed: %s", got, log.String())
	}

	// A caller that ends its connection itself after it was answered is no failure.
	plain := prometheus.NewRegistry()
	address = serve(t, Config{Metrics: NewMetrics(plain, "test"), Limits: Limits{Connections: 5, PerAddress: 4}}, io.Discard)
	connection := dialFrom(t, "127.0.0.2", address)
	ask(t, connection)
	eventually(t, plain, metricValues(1, 0, 0, 0))
	_ = connection.Close()
	eventually(t, plain, metricValues(0, 0, 0, 0))
}
