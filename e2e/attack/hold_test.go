package attack

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Connections are held, as many as asked for, and those that the server closes come again, in every kind.
func TestHold(t *testing.T) {
	const connections = 5
	for _, kind := range HoldKinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			patient := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
			t.Cleanup(patient.Close)
			impatient := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					t.Error("a whole request came")
				}
			}))
			impatient.Config.ReadTimeout = 500 * time.Millisecond
			impatient.StartTLS()
			t.Cleanup(impatient.Close)
			hold := Hold{Kind: kind, Connections: connections, Time: 2 * comeBack}
			for server, check := range map[*httptest.Server]func(Held) bool{
				patient:   func(h Held) bool { return h.Opened == connections && h.Most == connections && h.Failed == 0 },
				impatient: func(h Held) bool { return h.Opened > connections && h.Opened < 10*connections },
			} {
				hold.Addresses = []string{server.Listener.Addr().String()}
				start := time.Now()
				held, err := hold.Run(t.Context())
				if err != nil || !check(held) {
					t.Errorf("with a server that is patient (%t): %+v, %v", server == patient, held, err)
				}
				if took := time.Since(start); took < hold.Time || took > hold.Time+5*time.Second {
					t.Errorf("it took %s, want %s", took, hold.Time)
				}
			}
		})
	}
}

// An attack has bounds.
func TestHoldIsBounded(t *testing.T) {
	for name, change := range map[string]func(*Hold){
		"kind":             func(h *Hold) { h.Kind = "all" },
		"no address":       func(h *Hold) { h.Addresses = nil },
		"no connection":    func(h *Hold) { h.Connections = 0 },
		"many connections": func(h *Hold) { h.Connections = holdConnections + 1 },
		"no time":          func(h *Hold) { h.Time = 0 },
		"much time":        func(h *Hold) { h.Time = holdTime + 1 },
	} {
		hold := Hold{Kind: "no-bodies", Addresses: []string{"127.0.0.1:1"}, Connections: 1, Time: time.Second}
		change(&hold)
		if _, err := hold.Run(t.Context()); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
}
